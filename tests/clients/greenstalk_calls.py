"""Every call that the PyPI package greenstalk offers, against the server at HOST:PORT."""

import sys

import cases
import greenstalk


class Server:
    def __init__(self, host, port):
        self.address = (host, port)

    def client(self, tube, **options):
        return greenstalk.Client(self.address, use=tube, watch=tube, **options)


if __name__ == "__main__":
    host, _, port = sys.argv[1].rpartition(":")
    cases.run(Server(host, int(port)))
