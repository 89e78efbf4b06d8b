"""Faults after the login and without one: answers, disks and pipes, the clients file, serving."""

from __future__ import annotations

from .fault_place import DROP_PRIVILEGES, FULL_DISK, Fault, Running

__all__ = ["ANSWERS", "FILES", "HANGING", "SERVING"]

ME = "--config={tester}"
HELLO = ("generate", "hello", ME)
HANGING = '@@{"mode":"hang","after":2}'
NEW = ("register-client", "--name=new", "--key-path={public}")
SERVE = ("serve", "--backend=builtin", "--log-level=error")

SEE_GENERATE = "(see: wsclient generate --help)"


def interrupt_answer(running: Running) -> None:
    running.wait_for(lambda: "t001" in running.out)
    running.interrupt()


def kill_gateway(running: Running) -> None:
    running.wait_for(lambda: "t001" in running.out)
    running.place.doomed.kill()


ANSWERS = (
    Fault(
        name="unknown model",
        command=(*HELLO, "--model=nope"),
        line="the model server answers: model 'nope' not found (HTTP 404) [model_not_found]. See which models there "
        "are: wsclient models.",
    ),
    Fault(
        name="model server down",
        command=(*HELLO, "--server-url={no_models}"),
        line="Generation failed: Cannot connect to Ollama: Connection refused [server_error]. See the gateway's log "
        "for the cause.",
    ),
    Fault(
        name="model server busy",
        command=("generate", '@@{"mode":"503"}', ME),
        line="the model server answers: server busy, please try again.  maximum pending requests exceeded (HTTP 503) "
        "[server_busy]. Try again in a moment.",
    ),
    Fault(
        name="model server breaks off",
        command=("generate", '@@{"mode":"drop","after":2}', ME),
        out=" t000 t001\n",
        line="Generation failed: Premature close [generation_incomplete]. Generate again for the whole text.",
    ),
    Fault(
        name="too many requests a minute",
        command=("generate", "hello", "--config={limited}"),
        shell='"$@" >first 2>&1; exec "$@"',
        line="More than 1 requests a minute. Please try again in ... seconds [rate_limited].",
    ),
    Fault(
        name="message too big",
        command=("generate", "hello " * 2000, ME, "--server-url={tight}"),
        line="the request has ... bytes, the server takes 8192 [message_too_big]. Send a shorter prompt.",
    ),
    Fault(
        name="gateway gone in the middle",
        command=("generate", HANGING, ME, "--server-url={doomed}"),
        meanwhile=kill_gateway,
        out=" t000 t001\n",
        line="{doomed}/: the connection broke off (close code 1006) [connection_lost]. Run the command again.",
    ),
    Fault(
        name="interrupted in the middle",
        command=("generate", HANGING, ME),
        meanwhile=interrupt_answer,
        code=130,
        out=" t000 t001",
        line="interrupted by Ctrl-C",
    ),
    Fault(
        name="prompt empty",
        command=("generate", " ", ME),
        code=2,
        line=f"the prompt is empty {SEE_GENERATE}",
    ),
    Fault(
        name="prompt is not UTF-8",
        command=("generate", "-", ME),
        stdin=b"caf\xe9",
        line="the prompt must be text in UTF-8; its byte 3 is not",
    ),
    Fault(
        name="prompt from a closed stdin",
        command=("generate", "-", ME),
        shell='exec "$@" <&-',
        code=2,
        line=f"the prompt is empty {SEE_GENERATE}",
    ),
)

FILES = (
    Fault(
        name="disk full under the answer",
        command=HELLO,
        shell='exec "$@" > /dev/full',
        needs="test -c /dev/full",
        line="stdout: No space left on device; free some space there",
    ),
    Fault(
        name="disk full under the keys",
        command=("generate-keys", "--type=ec", "--output-dir=full"),
        shell=FULL_DISK,
        needs="unshare --mount mount -t tmpfs none /mnt",
        line="full/client_key.pem: No space left on device; free some space there",
    ),
    Fault(
        name="stdout closed",
        command=HELLO,
        shell='exec "$@" >&-',
        line="stdout is closed, so there is nowhere to write to; to write nowhere, append: >/dev/null",
    ),
    Fault(
        name="folder read-only",
        command=("generate-keys", "--type=ec", "--output-dir={read_only}"),
        shell=DROP_PRIVILEGES,
        line="{read_only}/client_key.pem: Permission denied; check what this user may do there",
    ),
    Fault(
        name="key pair exists",
        command=("generate-keys", "--name=tester", "--output-dir={folder}/keys"),
        line="{folder}/keys/tester_key.pem exists already and stays as it is; choose another --name or --output-dir",
    ),
)

SERVING = (
    Fault(
        name="clients file is garbage",
        command=("list-clients", "--clients-file={broken}"),
        line="{broken} is not valid JSON: ...; mend it, or put back a backup",
    ),
    Fault(
        name="clients file unwritable",
        command=("revoke-client", "--client-id={tester_id}", "--force", "--clients-file={read_only}/clients.json"),
        shell=DROP_PRIVILEGES,
        line="{read_only}/clients.json.lock cannot be locked: Permission denied; check what this user may do there",
    ),
    Fault(
        name="client registered already",
        command=("register-client", "--name=tester", "--key-path={wrong_public}", "--clients-file={clients}"),
        line="the name 'tester' is registered already, to client {tester_id}; give --yes to revoke the old one and "
        "register this one instead",
    ),
    Fault(
        name="public key missing",
        command=("register-client", "--name=new", "--key-path=nowhere.pub"),
        line="the public key nowhere.pub cannot be read: No such file or directory [invalid_key]. Give the public half "
        "of the pair, NAME_key.pub.",
    ),
    Fault(
        name="admin token wrong",
        command=(*NEW, "--online", "--server-url={url}"),
        env={"WSCLIENT_ADMIN_TOKEN": "a-wrong-token-that-is-long-enough"},
        line="http://127.0.0.1:{port}/api/auth/register does not accept this admin token; give the one that the "
        "gateway was started with",
    ),
    Fault(
        name="admin token missing",
        command=(*NEW, "--online", "--server-url={url}"),
        line="--online needs the gateway's admin token: WSCLIENT_ADMIN_TOKEN, or --admin-token-file=FILE",
    ),
    Fault(
        name="port in use",
        command=(*SERVE, "--port={taken}"),
        line="port {taken} on 127.0.0.1 is in use by another program; choose another one, or 0 for any that is free",
    ),
    Fault(
        name="TLS certificate is none",
        command=(*SERVE, "--port=0", "--tls-cert={garbage_key}"),
        line="the TLS certificate {garbage_key} is not a certificate in PEM form",
    ),
    Fault(
        name="TLS key missing",
        command=(*SERVE, "--port=0", "--tls-cert={self_signed_pem}", "--tls-key=nowhere.pem"),
        line="the TLS key nowhere.pem cannot be read: No such file or directory",
    ),
    Fault(
        name="the gateway's clients file is garbage",
        command=(*SERVE, "--port=0", "--clients-file={broken}"),
        line="the clients cannot be read: {broken} is not valid JSON: ...; mend it, or put back a backup",
    ),
)
