"""The pure core: no thread, socket, clock, dice, disk or log. Text goes in, what to do comes out."""
