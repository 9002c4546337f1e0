# The peer of the protocol's measurements: a plugin as one writes it in an
# afternoon, with nothing but the standard library of Python.
import http.server
import json
import socket
import socketserver
import sys

ANSWERS = {
    "/Plugin.Activate": {"Implements": ["VolumeDriver"]},
    "/VolumeDriver.Capabilities": {"Capabilities": {"Scope": "local"}},
    "/VolumeDriver.Create": {"Err": ""},
    "/VolumeDriver.Get": {"Volume": {"Name": "bench", "Mountpoint": "", "Status": {}}, "Err": ""},
}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if body:
            json.loads(body)
        answer = json.dumps(ANSWERS[self.path]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        self.wfile.flush()

    def address_string(self):
        return "unix"

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


Server(sys.argv[1], Handler).serve_forever()
