"""A client of the control socket, which speaks QMP."""
import json
import socket
import time

from hutch import PATIENCE, GuestTimeout


def connect(path, process, limit=30):
    """A connection to the socket of `process`, which may have just been started: its file is
    there a moment before anybody listens, so that waiting for it is not enough."""
    end = time.monotonic() + limit * PATIENCE
    client = socket.socket(socket.AF_UNIX)
    while True:
        try:
            client.connect(path)
            return client
        except OSError:
            if time.monotonic() > end or process.poll() is not None:
                client.close()
                raise
            time.sleep(0.01)


class QmpError(Exception):
    """A command was refused; its text is the reason."""

    def __init__(self, error):
        super().__init__(error["desc"])
        self.kind = error["class"]


class Qmp:
    """One session: qmp("device_del", id="x") carries out a command, and returns what it
    returns.  Waits for the socket of `process`, which may have just been started."""

    def __init__(self, path, process, limit=30):
        end = time.monotonic() + limit * PATIENCE
        self.socket = connect(path, process, limit)
        self.buffer, self.events = b"", []
        self.greeting = self.message(end)
        self("qmp_capabilities")

    def close(self):
        self.socket.close()

    def message(self, end):
        """The next one, of whatever kind, until that moment."""
        while b"\n" not in self.buffer:
            self.socket.settimeout(max(end - time.monotonic(), 0.001))
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                raise GuestTimeout("nothing came from the control socket") from None
            if not data:
                raise ConnectionError("the control socket was closed")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def __call__(self, command, limit=60, **arguments):
        end = time.monotonic() + limit * PATIENCE
        request = {"execute": command, "arguments": arguments}
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            message = self.message(end)
            if "event" in message:
                self.events.append(message)
            elif "error" in message:
                raise QmpError(message["error"])
            else:
                return message["return"]

    def event(self, name, limit=60):
        """The next event of that name; those before it are kept."""
        end = time.monotonic() + limit * PATIENCE
        for at, message in enumerate(self.events):
            if message["event"] == name:
                return self.events.pop(at)
        while True:
            message = self.message(end)
            if message.get("event") == name:
                return message
            self.events.append(message)
