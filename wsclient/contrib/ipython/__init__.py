"""wsclient in IPython and Jupyter (extra `ipython`).

    %load_ext wsclient.contrib.ipython
    %wsclient connect --config keys/my-client_config.json

    %%generate llama3.2 --temperature 0.7
    Write a haiku about rain

and in Python cells `display(client.stream(prompt))`, which shows the text as it comes and returns the result. Models,
results, clients and generations look like something when a cell ends with them; a generation that still runs is shown
live. There is no thread and no event loop here: everything is drawn by the thread that runs the cell.
"""

from __future__ import annotations

from IPython.core.interactiveshell import InteractiveShell

from .formatters import Formatters
from .live import display
from .magics import WSClientMagics

__all__ = ["display", "load_ipython_extension", "unload_ipython_extension"]

_KEY = "wsclient.contrib.ipython"


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics and formatters; for `%load_ext`. Connects to nothing."""
    formatters, magics = Formatters(shell), WSClientMagics(shell)
    formatters.install()
    shell.register_magics(magics)
    shell.meta[_KEY] = (formatters, magics)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Close the client, and take magics and formatters away; for `%unload_ext`. Blocks for 2 s at most."""
    formatters, magics = shell.meta.pop(_KEY)
    magics.close()
    formatters.remove()
    for kind, names in magics.magics.items():
        for name in names:
            shell.magics_manager.magics[kind].pop(name, None)
    shell.magics_manager.registry.pop(type(magics).__name__, None)
