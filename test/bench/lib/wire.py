"""A connection to the server by its own protocol, over its Unix socket: no driver has to be installed, and a time taken
around run() holds one round trip and nothing else."""

import socket
import struct


class ServerError(Exception):
    pass


class Session:
    def __init__(self, socket_folder, database, options="", port=5432):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(300)  # a server that hangs must not hang us
        self.socket.connect(f"{socket_folder}/.s.PGSQL.{port}")
        self.buffer = b""
        words = ["user", "postgres", "database", database, "application_name", "bench", "options", options, ""]
        body = struct.pack("!I", 3 << 16) + b"\0".join(word.encode() for word in words) + b"\0"
        self.socket.sendall(struct.pack("!I", len(body) + 4) + body)
        self._answer()

    def run(self, sql):
        """The rows of all statements, as tuples of text. Several statements are one transaction."""
        self.start(sql)
        return self._answer()

    def value(self, sql):
        return self.run(sql)[0][0]

    def start(self, sql):
        """Sends it and does not wait: finish() does."""
        body = sql.encode() + b"\0"
        self.socket.sendall(b"Q" + struct.pack("!I", len(body) + 4) + body)

    def finish(self, seconds=300):
        self.socket.settimeout(seconds)
        try:
            return self._answer()
        finally:
            self.socket.settimeout(300)

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _read(self, size):
        while len(self.buffer) < size:
            more = self.socket.recv(65536)
            if not more:
                raise ServerError("the server closed the connection")
            self.buffer += more
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def _answer(self):
        rows, error = [], None
        while True:
            kind, size = struct.unpack("!cI", self._read(5))
            body = self._read(size - 4)
            if kind == b"D":
                rows.append(_fields(body))
            elif kind == b"E":
                parts = {part[:1]: part[1:].decode() for part in body.split(b"\0") if part}
                error = ServerError(f"{parts[b'C']}: {parts[b'M']}")
                if parts[b"S"] == "FATAL":
                    raise error
            elif kind == b"R" and body != b"\0\0\0\0":
                raise ServerError("the server asks for a password")
            elif kind == b"Z":
                if error:
                    raise error
                return rows


def _fields(body):
    (count,) = struct.unpack_from("!H", body)
    at, fields = 2, []
    for _ in range(count):
        (size,) = struct.unpack_from("!i", body, at)
        at += 4
        fields.append(None if size < 0 else body[at : at + size].decode())
        at += max(size, 0)
    return tuple(fields)
