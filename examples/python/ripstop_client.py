"""A Ripstop client in plain ZeroMQ (pip install pyzmq msgpack). URL is the one port of a node.
Usage: ripstop_client.py call|pub|push URL SUBJECT JSON, or ripstop_client.py sub URL PREFIX [COUNT]"""
import json
import sys

import msgpack
import zmq


def _dial(kind, url, timeout):
    socket = zmq.Context.instance().socket(kind)
    socket.immediate = True  # nothing is queued before the node is there
    socket.sndtimeo = socket.rcvtimeo = socket.linger = int(timeout * 1000)
    socket.connect(url)
    return socket


def call(url, subject, body, timeout=10.0):
    """Calls a method and returns its answer; zmq.Again: there was none in `timeout` seconds."""
    with _dial(zmq.DEALER, url, timeout) as dealer:
        header = [1, 0, 1, {"dl": int(timeout * 1000)}]  # version, kind, id, fields: see docs/wire.md
        dealer.send_multipart([b"", subject.encode(), msgpack.packb(header), msgpack.packb(body)])
        (_, kind, *_), answer = map(msgpack.unpackb, dealer.recv_multipart()[2:])  # "", subject, header, body
        if kind != 1:  # 2: an error
            raise RuntimeError(f"{answer.get('code', '')}: {answer['message']}")
        return answer


def publish(url, subject, *bodies, timeout=10.0):
    """Publishes to a node, once its subscription to `subject` has arrived."""
    with _dial(zmq.XPUB, url, timeout) as xpub:
        while not ((wanted := xpub.recv())[:1] == b"\x01" and subject.encode().startswith(wanted[1:])):
            pass  # it subscribes to something else as well
        for body in bodies:
            xpub.send_multipart([subject.encode(), msgpack.packb(body)])


def subscribe(url, prefix):
    """Yields (subject, body) of each event whose subject begins with `prefix`, for ever."""
    with _dial(zmq.SUB, url, -0.001) as sub:
        sub.subscribe(prefix)
        while True:
            subject, *_, body = sub.recv_multipart()
            yield subject.decode(), msgpack.unpackb(body)


def push(url, queue, *bodies, timeout=10.0):
    """Pushes work to a node that pulls from `queue`."""
    with _dial(zmq.PUSH, url, timeout) as pusher:
        for body in bodies:
            pusher.send_multipart([queue.encode(), msgpack.packb(body)])


if __name__ == "__main__":
    verb, url, subject, *rest = sys.argv[1:] if len(sys.argv) > 3 else sys.exit(__doc__)
    if verb == "sub":
        for _, (subject, body) in zip(range(int(rest[0]) if rest else sys.maxsize), subscribe(url, subject)):
            print(subject, json.dumps(body), flush=True)
    elif (answer := {"call": call, "pub": publish, "push": push}[verb](url, subject, *map(json.loads, rest))) is not None:
        print(json.dumps(answer))
