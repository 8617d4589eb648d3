"""The only room that touches the machine: files, sockets, processes, locks; all bounded."""
