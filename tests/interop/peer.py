"""A pyzmq socket that does what lines of JSON on standard input say, and answers each with a line.

With "curve" in it, the socket speaks CURVE.

Usage: peer.py '{"type": "DEALER", "bind": URL, "options": {"IDENTITY": "a"}, ...}'; its first line is its endpoint.
"""
import json
import queue
import signal
import sys
import threading
import time

import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import recv_monitor_message

signal.alarm(300)  # never outlives a test that hangs
setup = json.loads(sys.argv[1])
context = zmq.Context()
socket = context.socket(getattr(zmq, setup["type"]))
for name, value in setup.get("options", {}).items():
    socket.set(getattr(zmq, name), value.encode() if isinstance(value, str) else value)
curve = setup.get("curve", {})  # {"server": SECRET, "allow": [PUBLIC, ...]} or {"to": PUBLIC, "public": …, "secret": …}
authenticator = None
if "server" in curve:
    socket.curve_server = True
    socket.curve_secretkey = curve["server"].encode()
    if "allow" in curve:  # asks a ZAP handler, which says whom it was asked about
        socket.zap_domain = b"test"
        authenticator = ThreadAuthenticator(context)
        authenticator.start()
        allowed = {key.encode() for key in curve["allow"]}
        callback = type("", (), {"callback": lambda self, domain, key: key in allowed})()
        authenticator.configure_curve_callback("test", credentials_provider=callback)
elif curve:
    socket.curve_serverkey = curve["to"].encode()
    socket.curve_publickey = curve["public"].encode()
    socket.curve_secretkey = curve["secret"].encode()
# These drop what finds no room instead of waiting (RFC 28 and 29), and an asker under load is slower than its echo.
if setup["type"] in ("PUB", "XPUB", "SUB", "XSUB", "REP", "ROUTER"):
    socket.sndhwm = socket.rcvhwm = 0
monitor = socket.get_monitor_socket()
commands = queue.Queue()
threading.Thread(target=lambda: [commands.put(json.loads(line)) for line in sys.stdin] + [commands.put(None)], daemon=True).start()


def message(n):
    """The same as in main.rs: one frame or several, some empty, some large; or, plain, one short one."""
    frames = [b"t%d" % n]
    if setup.get("plain"):
        return frames
    if n % 3 == 0:
        frames += [b"", bytes([n % 256]) * (n % 300)]
    if n % 1000 == 999:
        frames.append(bytes([n % 256]) * (1 << 20))
    return frames


def send(frames):
    while True:
        try:
            return socket.send_multipart(frames)
        except zmq.ZMQError as error:  # a ROUTER's peer that has not come yet
            if error.errno != zmq.EHOSTUNREACH:
                raise
            time.sleep(0.002)


def receive():
    while (frames := socket.recv_multipart())[0] == b"probe":
        pass
    return frames


def expect(frames, n, prefix):
    wanted = prefix + message(n)
    assert frames == wanted, f"{n}: {[f[:40] for f in frames]} instead of {[f[:40] for f in wanted]}"


def do(what, first=0, count=1, prefix=(), window=1, frames=(), event="", topic=""):
    prefix = [part.encode() for part in prefix]
    numbers = range(first, first + count)
    if what == "send":
        for n in numbers:
            send(prefix + message(n))
    elif what == "receive":
        for n in numbers:
            expect(receive(), n, prefix)
    elif what == "ask":  # no more than `window` requests under way
        for n in numbers:
            send(prefix + message(n))
            if n - first >= window - 1:
                expect(receive(), n - window + 1, prefix)
        for n in numbers[max(0, count - window + 1):]:
            expect(receive(), n, prefix)
    elif what == "echo":
        for _ in numbers:
            send(socket.recv_multipart())
    elif what == "probe":  # until somebody has heard it: the next command
        while commands.empty():
            socket.send(b"probe")
            time.sleep(0.002)
    elif what == "put":
        send([bytes.fromhex(frame) for frame in frames])
    elif what == "get":
        return " ".join(frame.hex() or "-" for frame in socket.recv_multipart())
    elif what == "subscribe":
        socket.subscribe(topic)
    elif what == "unsubscribe":
        socket.unsubscribe(topic)
    elif what == "await":
        while recv_monitor_message(monitor)["event"] != getattr(zmq.Event, event):
            pass
    elif what == "seen":  # whether the monitor has told of such an event since the last look
        while monitor.poll(0):
            if recv_monitor_message(monitor)["event"] == getattr(zmq.Event, event):
                return "yes"
        return "no"
    else:
        raise ValueError(what)
    return "done"


for topic in setup.get("subscribe", []):
    if setup["type"] == "XSUB":
        socket.send(b"\x01" + topic.encode())
    else:
        socket.subscribe(topic)
if "bind" in setup:
    socket.bind(setup["bind"])
    print(socket.last_endpoint.decode(), flush=True)
else:
    socket.connect(setup["connect"])
    print(setup["connect"], flush=True)
while (command := commands.get()) is not None:
    print(do(**command), flush=True)
socket.disable_monitor()
monitor.close()
socket.close()  # lingers
if authenticator:
    authenticator.stop()
context.term()
