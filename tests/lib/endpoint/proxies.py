"""Private instances of the reverse proxies HAProxy, nginx and Apache.

Each forwards every request to one endpoint, with or without reusing its upstream connections.
"""

from __future__ import annotations

from tests import services


class Proxy(services.Server):
    """A proxy in front of an endpoint, which may reuse its upstream connections."""

    configuration = ""

    def __init__(self, upstream_port, reuses_connections):
        self.upstream_port = upstream_port
        self.reuses_connections = reuses_connections
        super().__init__()

    def prepare(self):
        self.executable = services.program(self.program)
        self.port = services.free_port()
        text = self.configuration.format(
            directory=self.directory,
            port=self.port,
            upstream=f"127.0.0.1:{self.upstream_port}",
            **self.options(),
        )
        with open(self.path("config"), "w") as file:
            file.write(text)

    def options(self):
        """Return the values of the other placeholders in the configuration."""
        raise NotImplementedError

    def is_ready(self):
        return services.accepts_connections(self.port)


class HAProxy(Proxy):
    name = "HAProxy"
    program = "haproxy"
    configuration = """
global
    maxconn 200
    nbthread 1
defaults
    mode http
    timeout connect 5s
    timeout client 20s
    timeout server 20s
    option {mode}
    http-reuse {reuse}
frontend in
    bind 127.0.0.1:{port}
    default_backend endpoint
backend endpoint
    server endpoint {upstream}
"""

    def options(self):
        if self.reuses_connections:
            return {"mode": "http-keep-alive", "reuse": "always"}
        return {"mode": "http-server-close", "reuse": "never"}

    def command(self):
        return [self.executable, "-db", "-f", self.path("config")]


class Nginx(Proxy):
    name = "nginx"
    program = "nginx"
    configuration = """
daemon off;
master_process off;
worker_processes 1;
pid {directory}/pid;
error_log {directory}/error.log;
events {{ worker_connections 200; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    upstream endpoint {{
        server {upstream};
        {keepalive}
    }}
    server {{
        listen 127.0.0.1:{port};
        ignore_invalid_headers off;
        underscores_in_headers on;
        location / {{
            proxy_pass http://endpoint;
            proxy_request_buffering off;
            {protocol}
        }}
    }}
}}
"""

    def options(self):
        if self.reuses_connections:
            protocol = 'proxy_http_version 1.1; proxy_set_header Connection "";'
            return {"keepalive": "keepalive 4;", "protocol": protocol}
        return {"keepalive": "", "protocol": ""}

    def command(self):
        return [self.executable, "-c", self.path("config"), "-p", self.directory]


class Apache(Proxy):
    name = "Apache"
    program = "apache2"
    configuration = """
ServerRoot {directory}
ServerName 127.0.0.1
PidFile {directory}/pid
DefaultRuntimeDir {directory}
Mutex pthread
ErrorLog {directory}/error.log
Listen 127.0.0.1:{port}
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so
StartServers 1
ServerLimit 1
ThreadsPerChild 8
MaxRequestWorkers 8
HttpProtocolOptions Unsafe
ProxyPass / http://{upstream}/ enablereuse={reuse}
"""

    def options(self):
        return {"reuse": "on" if self.reuses_connections else "off"}

    def command(self):
        return [self.executable, "-DFOREGROUND", "-f", self.path("config")]


PROXIES = {proxy.name: proxy for proxy in (HAProxy, Nginx, Apache)}
