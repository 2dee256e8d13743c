#!/usr/bin/env python3
"""Benchmarks Tally and its peers in turn, all on one Redis, and prints a table. `make bench` runs it.

Rounds are interleaved, so that other load on the machine affects all servers alike. Figures are medians with their
spread. The peers are in benches/peers/. Each request does the same on all of them: load the session by its cookie,
count a visit, save the session, and renew the cookie for two weeks.
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
CACHE = pathlib.Path(os.environ["TALLY_BENCH_CACHE"])
ROUNDS = int(os.environ.get("ROUNDS", 3))
SECONDS = int(os.environ.get("SECONDS_EACH", 4))
TICKS = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(port, process):
    for _ in range(3_000):
        if process.poll() is not None:
            sys.exit(f"{process.args} exited with {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.01)
    sys.exit(f"{process.args} does not listen")


class Server:
    """A server process on a free port, together with its child processes."""

    def __init__(self, stack, folder, command, environment=None):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = open(folder / f"{self.port}.log", "w")
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            [str(part).format(port=self.port) for part in command],
            cwd=folder,
            env=os.environ | {name: value.format(port=self.port) for name, value in (environment or {}).items()},
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        stack.callback(self.stop)
        wait_for(self.port, self.process)

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def processes(self):
        """The processes of its group and its children. PostgreSQL's children have process groups of their own."""
        for entry in pathlib.Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                if int(entry.name) and self.process.pid in (int(fields[1]), int(fields[2])):
                    yield entry.name, fields

    def cpu(self):
        """The CPU time used so far, in seconds."""
        return sum(int(fields[11]) + int(fields[12]) for _, fields in self.processes()) / TICKS

    def memory(self):
        """The resident memory, in MiB."""
        pages = sum(int(fields[21]) for _, fields in self.processes())
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def cookie(url, path="/"):
    with urllib.request.urlopen(url + path) as response:
        return "; ".join(header.split(";")[0] for header in response.headers.get_all("Set-Cookie"))


def count(url, path, jar):
    """Makes a visit and returns the count in the response."""
    request = urllib.request.Request(url + path, headers={"Cookie": jar})
    with urllib.request.urlopen(request) as response:
        text = re.sub(r"<!--.*?-->|<[^>]*>", "", response.read().decode().split("<body", 1)[-1])
    return int(re.search(r"(?:Visit count: )?(\d+)", text[text.find("Visit count: ") if "Visit count: " in text else 0 :])[1])


class Load:
    """A run of wrk."""

    def __init__(self, server, folder, method, path, cookies, connections, seconds=SECONDS):
        self.server = server
        jar = folder / f"cookies-{server.port}"
        jar.write_text("\n".join(cookies))
        self.cpu = server.cpu()
        self.wrk = subprocess.Popen(
            ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", HERE / "wrk.lua", server.url + path, "--", method, jar],
            stdout=subprocess.PIPE,
            text=True,
        )

    def result(self):
        output = self.wrk.communicate()[0]
        requests, seconds, p50, p99, failed = map(float, re.search(r"RESULT (.*)", output)[1].split())
        return {
            "rate": requests / seconds,
            "requests": requests,
            "p50": p50,
            "p99": p99,
            "failed": failed,
            "cpu": (self.server.cpu() - self.cpu) / requests * 1_000,
        }


class Table(dict):
    """Results by name, with a list of values for each figure."""

    def add(self, name, result):
        for figure, value in result.items():
            self.setdefault(name, {}).setdefault(figure, []).append(value)

    def median(self, name, figure):
        return statistics.median(self[name][figure])

    def ratio(self, figure, name, other):
        """The median over the rounds, because the speed of the machine varies more between rounds than within one."""
        return statistics.median(a / b for a, b in zip(self[name][figure], self[other][figure]))

    def spread(self, name, figure):
        """Half the distance between the minimum and the maximum, in percent of the median."""
        values = self[name][figure]
        return (max(values) - min(values)) / 2 / self.median(name, figure) * 100


PASSWORD = "correct horse battery staple"


def start_tally(stack, folder, store, console=False):
    environment = {"LEPTOS_SITE_ADDR": "127.0.0.1:{port}", "SESSION_STORE": store, "TALLY_METRICS": "127.0.0.1:0",
                   "TALLY_NEW_SESSIONS_PER_SECOND": "0"}
    if console:
        environment["TALLY_CONSOLE_PASSWORD_HASH"] = subprocess.run(
            [ROOT / "target/release/tally", "hash-password"], input=PASSWORD, capture_output=True, text=True, check=True).stdout.strip()
    return Server(stack, folder, [ROOT / "target/release/tally"], environment)


def start_redis(stack, folder):
    return Server(stack, folder, ["redis-server", "--port", "{port}", "--bind", "127.0.0.1", "--save", ""])


def start_all(stack, folder):
    redis = start_redis(stack, folder)
    url = f"redis://127.0.0.1:{redis.port}"
    tally = lambda: start_tally(stack, folder, url + "/0")
    rust = lambda name, database: Server(stack, folder, [CACHE / "rust/release" / name, "{port}", f"{url}/{database}"])
    bare = lambda: rust("bare", 1)
    express = Server(
        stack,
        folder,
        ["node", CACHE / "express/server.js", "{port}", url + "/2", "2"],
        {"NODE_ENV": "production"},
    )
    django = Server(
        stack,
        folder,
        [CACHE / "django/bin/gunicorn", "--chdir", HERE / "peers/django", "--workers", "2", "--bind", "127.0.0.1:{port}", "counter:application"],
        {"REDIS_URL": url + "/3", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    counter = lambda: rust("tally-counter", 4)
    hot = {
        "Tally, hot": ([tally(), tally()], "POST", "/api/visit"),
        "tally-session, hot": ([counter(), counter()], "GET", "/"),
        "tower-sessions, hot": ([bare(), bare()], "GET", "/"),
    }
    app, ours, theirs = (servers[0] for servers, _, _ in hot.values())
    peers = {
        "Tally, page": (app, "GET", "/"),
        "Tally, server function": (app, "POST", "/api/visit"),
        "tally-session on axum": (ours, "GET", "/"),
        "tower-sessions on axum": (theirs, "GET", "/"),
        "axum_session on axum": (rust("axum-session-counter", 5), "GET", "/"),
        "actix-session on actix-web": (rust("actix-counter", 6), "GET", "/"),
        "Express": (express, "GET", "/"),
        "Django": (django, "GET", "/"),
    }
    return redis, hot, peers


def postgres_program(name):
    """The command of a PostgreSQL program. Debian installs them outside the PATH, and they refuse to run as root."""
    program = max(pathlib.Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), default=name)
    drop = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    return [*drop, program]


def start_postgres(stack, folder):
    data = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
    if os.geteuid() == 0:
        shutil.chown(data, "postgres")
    data = data / "data"
    subprocess.run([*postgres_program("initdb"), "--auth=trust", "--username=tally", "-D", data], check=True, stdout=subprocess.DEVNULL)
    server = Server(stack, folder, [*postgres_program("postgres"), "-D", data, "-p", "{port}", "-h", "127.0.0.1", "-k", "",
                                    "-c", "max_connections=200"])
    while subprocess.run([*postgres_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(server.port)]).returncode:
        time.sleep(0.05)
    return server


def psql(postgres, statement):
    command = ["psql", "-XAtqc", statement, f"postgres://tally@127.0.0.1:{postgres.port}/postgres"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def on_postgres(stack, folder):
    """Starts Tally and its peers on one PostgreSQL, and Tally on Redis for comparison."""
    postgres, redis = start_postgres(stack, folder), start_redis(stack, folder)
    url = f"postgres://tally@127.0.0.1:{postgres.port}/postgres"
    environment = {"PGHOST": "127.0.0.1", "PGPORT": str(postgres.port), "PGUSER": "tally", "PYTHONDONTWRITEBYTECODE": "1"}
    django = CACHE / "django/bin"
    subprocess.run([django / "python", HERE / "peers/django/counter.py"], check=True, env=os.environ | environment)
    psql(postgres, (CACHE / "express/node_modules/connect-pg-simple/table.sql").read_text())
    tallies = [start_tally(stack, folder, url), start_tally(stack, folder, url)]
    express = Server(stack, folder, ["node", CACHE / "express/server.js", "{port}", url, "2"], {"NODE_ENV": "production"})
    gunicorn = [django / "gunicorn", "--chdir", HERE / "peers/django", "--workers", "2", "--bind", "127.0.0.1:{port}", "counter:application"]
    peers = {
        "Tally, page": (tallies[0], "GET", "/"),
        "Tally, server function": (tallies[0], "POST", "/api/visit"),
        "Express, connect-pg-simple": (express, "GET", "/"),
        "Django, db": (Server(stack, folder, gunicorn, environment), "GET", "/"),
        "Tally on Redis, page": (start_tally(stack, folder, f"redis://127.0.0.1:{redis.port}/0"), "GET", "/"),
    }
    return postgres, tallies, peers


def sql_console(stack, folder, postgres):
    """The console's pages with a million sessions in PostgreSQL."""
    url = f"postgres://tally@127.0.0.1:{postgres.port}/postgres"
    subprocess.run([ROOT / "target/release/tally", "migrate"], check=True, stdout=subprocess.DEVNULL,
                   env=os.environ | {"SESSION_STORE": url})
    psql(postgres, "truncate tower_sessions, tower_sessions_users")
    psql(postgres, "alter role tally set synchronous_commit = off")
    subprocess.run([ROOT / "target/debug/examples/fill", url, "1000000"], check=True)
    psql(postgres, "alter role tally reset synchronous_commit")
    psql(postgres, "vacuum analyze tower_sessions")
    print("\nthe console on PostgreSQL with a million sessions, each of another user")
    time_pages(Operator(start_tally(stack, folder, url, console=True)))


class Streams:
    """Open pages of a server: one stream for each session."""

    def __init__(self, server, jars):
        self.sockets = []
        for jar in jars:
            stream = socket.create_connection(("127.0.0.1", server.port))
            stream.sendall(f"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {jar}\r\n\r\n".encode())
            self.sockets.append(stream)
        for stream in self.sockets:
            stream.settimeout(30)
            while b"data:" not in stream.recv(65_536):
                pass
            stream.settimeout(None)

    def close(self):
        for stream in self.sockets:
            stream.close()


def followed(folder, postgres, tallies):
    """What visitors notice of 10,000 sessions whose open pages are on another server."""
    first, second = tallies
    jars = [cookie(first.url) for _ in range(10_000)]
    table = Table()
    for _ in range(ROUNDS):
        table.add("none followed", Load(first, folder, "POST", "/api/visit", jars, 16).result())
        streams = Streams(second, jars)
        table.add("all followed", Load(first, folder, "POST", "/api/visit", jars, 16).result())
        streams.close()
    ratio = table.median("all followed", "rate") / table.median("none followed", "rate")
    print(f"10,000 sessions on one server: {table.median('none followed', 'rate'):,.0f} visits/s; "
          f"with an open page for each on another: {table.median('all followed', 'rate'):,.0f} ({ratio:.2f})")


def sql(stack, folder):
    postgres, tallies, peers = on_postgres(stack, folder)
    jars = {server.port: [cookie(server.url) for _ in range(64)] for server, _, _ in peers.values()}
    table = Table()
    for _ in range(ROUNDS):
        for name, (server, method, path) in peers.items():
            Load(server, folder, method, path, jars[server.port], 16, 1).result()
            before = postgres.cpu()
            result = Load(server, folder, method, path, jars[server.port], 16).result()
            result["store"] = (postgres.cpu() - before) / result["requests"] * 1_000
            table.add(name, result | {"lost": lost(server, folder, method, path)})
        jar = cookie(tallies[0].url)
        loads = [Load(server, folder, "POST", "/api/visit", [jar], 32) for server in tallies]
        table.add("hot", {"rate": sum(load.result()["rate"] for load in loads)})
    print("filling PostgreSQL with a million sessions", file=sys.stderr)
    psql(postgres, "insert into tower_sessions select md5(n::text), data, now() + n * interval '1 second' "
                   "from generate_series(1, 1000000) n, (select data from tower_sessions limit 1) one")
    psql(postgres, "vacuum analyze tower_sessions")
    for _ in range(ROUNDS):
        table.add("a million", Load(tallies[0], folder, "POST", "/api/visit", jars[tallies[0].port], 16).result())
    print(f"\n{'on PostgreSQL':<28}{'requests/s':>12}{'spread':>8}{'p50 ms':>8}{'p99 ms':>8}{'CPU s/1000':>12}{'PostgreSQL':>12}{'lost of 100':>13}{'failed':>8}")
    for name in peers:
        median = lambda figure, name=name: table.median(name, figure)
        print(f"{name:<28}{median('rate'):>12,.0f}{table.spread(name, 'rate'):>7.0f}%{median('p50'):>8.2f}{median('p99'):>8.2f}"
              f"{median('cpu'):>12.3f}{median('store'):>12.3f}{median('lost'):>13.1f}{median('failed'):>8.0f}")
    rate = lambda name: table.median(name, "rate")
    print(f"one hot session, two servers: {rate('hot'):,.0f} visits/s")
    for text, ratio, goal in [
        ("page / Django db", rate("Tally, page") / rate("Django, db"), 5),
        ("page / Express connect-pg-simple", rate("Tally, page") / rate("Express, connect-pg-simple"), 1.5),
        ("a million sessions stored / 64", rate("a million") / rate("Tally, server function"), 0.95),
    ]:
        print(f"{text:<36}{ratio:>6.2f}   goal {goal:<6}{'met' if ratio >= goal else 'MISSED'}")
    followed(folder, postgres, tallies)
    sql_console(stack, folder, postgres)


def ask(redis, *words):
    return subprocess.run(["redis-cli", "-p", str(redis.port), *map(str, words)], capture_output=True, text=True, check=True).stdout.strip()


def redis_cpu(redis):
    """Seconds of computing so far, as Redis counts them."""
    used = re.findall(r"used_cpu_(?:sys|user):([\d.]+)", ask(redis, "info", "cpu"))
    return sum(map(float, used))


def lost(server, folder, method, path):
    """The percentage of visits, from 16 connections on one session, that are missing from the count."""
    jar = cookie(server.url)
    before = count(server.url, "/", jar)
    result = Load(server, folder, method, path, [jar], 16, 2).result()
    counted = count(server.url, "/", jar) - before - 1
    return max(0.0, 1 - counted / result["requests"]) * 100


def start_time(stack, folder, store):
    """Milliseconds from the start of a server to its first page, and the CPU time of five idle seconds."""
    server = start_tally(stack, folder, store)
    cookie(server.url)
    duration = (time.monotonic() - server.started_at) * 1_000
    before = server.cpu()
    time.sleep(5)
    idle = server.cpu() - before
    server.stop()
    return duration, idle


def fill(redis, sessions):
    """Copies one session to new ids, each with a lifetime of two weeks."""
    script = (
        "local key = redis.call('RANDOMKEY') local value = redis.call('GET', key) "
        "for number = 1, ARGV[1] do redis.call('SET', 'filled:' .. number, value, 'EX', 1209600) end "
        "return redis.call('DBSIZE')"
    )
    return int(ask(redis, "eval", script, 0, sessions).split()[-1])


def grow(redis, size):
    """Adds `size` bytes to every session in Tally's database."""
    keys = ask(redis, "keys", "*").split()
    subprocess.run([ROOT / "target/debug/examples/grow", f"redis://127.0.0.1:{redis.port}/0", str(size), *keys], check=True)


def stored_sessions(stack, table, folder, tally, jars):
    """The same load, in turn, on a Redis with a million sessions and on one with few. Returns the size of the larger."""
    full = start_redis(stack, folder)
    beside = start_tally(stack, folder, f"redis://127.0.0.1:{full.port}/0")
    runs = {"Tally, a million sessions": (beside, [cookie(beside.url) for _ in range(64)]), "Tally, few sessions": (tally, jars)}
    print("filling Redis with a million sessions", file=sys.stderr)
    size = fill(full, 1_000_000)
    for _ in range(2 * ROUNDS):
        for name, (server, jars) in runs.items():
            table.add(name, Load(server, folder, "POST", "/api/visit", jars, 16).result())
    beside.stop()
    full.stop()
    return size


def large_sessions(table, folder, redis, tally):
    """Measures sessions of 16 and 64 KiB, and how large sessions affect small ones."""
    for _ in range(ROUNDS):
        for size in [0, 16_384, 65_536]:
            ask(redis, "-n", 0, "flushdb")
            jars = [cookie(tally.url) for _ in range(16)]
            grow(redis, size)
            table.add(f"Tally, {size} bytes", Load(tally, folder, "POST", "/api/visit", jars, 16).result())
        small = [cookie(tally.url) for _ in range(64)]
        table.add("Tally, alone", Load(tally, folder, "POST", "/api/visit", small, 8).result())
        large = Load(tally, folder, "POST", "/api/visit", jars[:1], 1)
        table.add("Tally, beside 64 KiB", Load(tally, folder, "POST", "/api/visit", small, 8).result())
        large.result()


class Operator:
    """An operator who is signed in to the console."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_):
            return None

    def __init__(self, server):
        self.server = server
        try:
            urllib.request.build_opener(self.Stay).open(server.url + "/admin", f"password={PASSWORD.replace(' ', '+')}".encode())
        except urllib.error.HTTPError as response:
            self.cookie = response.headers["Set-Cookie"].split(";")[0]

    def page(self, path, body=None):
        """Returns a page and the time that it took, in milliseconds."""
        request = urllib.request.Request(self.server.url + path, body, {"Cookie": self.cookie})
        start = time.monotonic()
        with urllib.request.urlopen(request) as response:
            text = response.read().decode()
        return text, (time.monotonic() - start) * 1_000

    def alive(self):
        return int(re.search(r"sessions alive</dt><dd>([\d,]+)", self.page("/admin")[0])[1].replace(",", ""))


def console_costs(stack, folder, redis, table):
    """Measures what the console costs visitors: the same load, in turn, on a server with it and on one without it."""
    ask(redis, "flushall")
    store = f"redis://127.0.0.1:{redis.port}/0"
    servers = {"with": start_tally(stack, folder, store, console=True), "without": start_tally(stack, folder, store)}
    for sessions in [64, 10_000]:
        jars = {name: [cookie(server.url) for _ in range(sessions)] for name, server in servers.items()}
        # Alternate many short runs, because the speed of the machine varies more in a minute than the two servers differ.
        for round_ in range(5 * ROUNDS):
            for name, server in list(servers.items())[:: 1 if round_ % 2 else -1]:
                table.add(f"{name} a console, {sessions}", Load(server, folder, "POST", "/api/visit", jars[name], 16, 2).result())
    for server in servers.values():
        server.stop()
    print("\ncost of the console for visitors, 16 connections")
    for sessions in [64, 10_000]:
        with_, without = (f"{name} a console, {sessions}" for name in servers)
        # Compare adjacent runs, because the speed of the machine varies more.
        ratio = statistics.median(a / b for a, b in zip(table[with_]["rate"], table[without]["rate"]))
        print(f"{sessions:>6,} sessions: {table.median(with_, 'rate'):,.0f} visits/s with it (± {table.spread(with_, 'rate'):.0f} %), "
              f"{table.median(without, 'rate'):,.0f} visits/s without it (± {table.spread(without, 'rate'):.0f} %): {ratio:.2f}   "
              f"goal 0.95  {'met' if ratio >= 0.95 else 'MISSED'}")


def time_pages(operator):
    """How long the console's pages take."""
    label = re.findall(r'/admin/sessions/([\w-]{10})"', operator.page("/admin/sessions?page=12345")[0])[7]
    paths = ["/admin", "/admin/sessions", "/admin/sessions?page=10000", "/admin/sessions?page=20000",
             f"/admin/sessions?short_id={label[:3]}", f"/admin/sessions?short_id={label}", f"/admin/sessions/{label}",
             "/admin/sessions?user=operator", "/admin/sign-ins"]
    for path in paths:
        took = sorted(operator.page(path)[1] for _ in range(20))
        print(f"{path.replace(label, 'SHORT_ID'):<36}{statistics.median(took):>8.1f} ms, max {took[-1]:.1f}   "
              f"goal 200    {'met' if took[-1] <= 200 else 'MISSED'}")


def console_of_a_million(stack, folder, redis):
    """Measures the console's pages with a million sessions, and the slowest command in Redis."""
    ask(redis, "flushall")
    store = f"redis://127.0.0.1:{redis.port}/0"
    used = lambda: int(re.search(r"used_memory:(\d+)", ask(redis, "info", "memory"))[1])
    subprocess.run([ROOT / "target/debug/examples/fill", store, "1000000"], check=True)
    before = used()
    ask(redis, "config", "set", "slowlog-log-slower-than", "1000")
    ask(redis, "config", "set", "slowlog-max-len", "100000")
    ask(redis, "slowlog", "reset")
    server = start_tally(stack, folder, store, console=True)
    start = time.monotonic()
    operator = Operator(server)
    while operator.alive() < 1_000_000:
        time.sleep(0.2)
    indexing = time.monotonic() - start
    index = (used() - before) / 1_000_000
    print(f"\nthe console on Redis with a million sessions, each of a different user; {index:.0f} bytes of index per session, "
          f"built in {indexing:.0f} s")
    time_pages(operator)
    start = time.monotonic()
    operator.page("/admin/revoke-others", b"")
    while operator.alive() > 1:
        time.sleep(0.2)
    print(f"all sessions except the operator's revoked in {time.monotonic() - start:.0f} s")
    print(f"slowest Redis command: {slowest(redis)}")
    server.stop()


def console(stack, folder, redis):
    console_costs(stack, folder, redis, Table())
    console_of_a_million(stack, folder, redis)


def cluster(stack, folder, masters):
    """A Redis Cluster without replicas."""
    nodes = [Server(stack, folder, ["redis-server", "--port", "{port}", "--bind", "127.0.0.1", "--save", "", "--cluster-enabled", "yes",
                                    "--cluster-port", str(free_port()), "--cluster-config-file", f"{number}-{masters}.conf"])
             for number in range(masters)]
    for number, node in enumerate(nodes):
        first, last = (16_384 * edge // masters for edge in (number, number + 1))
        ask(node, "cluster", "addslotsrange", first, last - 1)
        bus = re.search(r"@(\d+)", ask(node, "cluster", "nodes"))[1]
        ask(nodes[0], "cluster", "meet", "127.0.0.1", node.port, bus)
    ready = lambda node: f"cluster_known_nodes:{masters}" in ask(node, "cluster", "info") and "cluster_state:ok" in ask(node, "cluster", "info")
    while not all(map(ready, nodes)):
        time.sleep(0.05)
    return nodes


def scale(stack, folder):
    """The CPU time that a visit takes on the server and on each master of a Cluster.

    With as many connections for each master, each of them has as much to do at once as the only master of a small Cluster.
    """
    print(f"{'masters':>8}{'connections':>13}{'visits/s':>10}{'server, ms':>12}{'Redis, ms':>11}{'of each master':>16}{'busiest / mean':>16}")
    for masters in [1, 3, 6]:
        nodes = cluster(stack, folder, masters)
        tally = start_tally(stack, folder, f"redis-cluster://127.0.0.1:{nodes[0].port}")
        jars = [cookie(tally.url) for _ in range(1_200)]
        table = Table()
        counts = sorted({16, 16 * masters, 32 * masters})
        for _ in range(ROUNDS):
            for connections in counts:
                Load(tally, folder, "POST", "/api/visit", jars, connections, 1).result()
                before = [redis_cpu(node) for node in nodes]
                result = Load(tally, folder, "POST", "/api/visit", jars, connections).result()
                spent = [(redis_cpu(node) - start) / result["requests"] * 1_000 for node, start in zip(nodes, before)]
                table.add(connections, result | {"redis": sum(spent), "uneven": max(spent) / statistics.mean(spent)})
        for connections in counts:
            median = lambda figure: table.median(connections, figure)
            print(f"{masters:>8}{connections:>13}{median('rate'):>10,.0f}{median('cpu'):>12.4f}{median('redis'):>11.4f}"
                  f"{median('redis') / masters:>16.4f}{median('uneven'):>16.2f}")
        for process in [tally, *nodes]:
            process.stop()


def slowest(redis):
    """The duration and name of the slowest command in Redis's slow log."""
    script = (
        "local most, name = 0, '' for _, entry in ipairs(redis.call('SLOWLOG', 'GET', -1)) do "
        "if entry[3] > most then most, name = entry[3], entry[4][1] .. ' ' .. (entry[4][2] or '') end end return most .. ' ' .. name"
    )
    most, name = (ask(redis, "eval", script, 0) + " ").split(" ", 1)
    return f"{int(most) / 1_000:.1f} ms ({name[:60].strip()})" if int(most) else "less than 1 ms"


def memory_over(minutes):
    """Measures resident memory each minute under full load of the page and a server function."""
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = start_redis(stack, folder)
        store = f"redis://127.0.0.1:{redis.port}/0"
        tally = start_tally(stack, folder, store)
        jars = [cookie(tally.url) for _ in range(1_000)]
        peaks = []
        for minute in range(minutes):
            loads = [Load(tally, folder, method, path, jars, 16, 60) for method, path in [("GET", "/"), ("POST", "/api/visit")]]
            samples = []
            while any(load.wrk.poll() is None for load in loads):
                samples.append(tally.memory())
                time.sleep(1)
            rate = sum(load.result()["rate"] for load in loads)
            peaks.append(max(samples))
            print(f"minute {minute + 1}: {rate:,.0f} requests/s, {max(samples):.1f} MiB resident")
        print(f"resident memory over {minutes} minutes of full load: max {max(peaks):.1f} MiB; "
              f"last minute / first {peaks[-1] / peaks[0]:.2f}")


def main():
    if sys.argv[1:] == ["memory"]:
        return memory_over(int(os.environ.get("MINUTES", 10)))
    if sys.argv[1:] == ["scale"]:
        with contextlib.ExitStack() as stack:
            return scale(stack, pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())))
    if sys.argv[1:] == ["sql"]:
        with contextlib.ExitStack() as stack:
            return sql(stack, pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())))
    if sys.argv[1:] == ["console"]:
        with contextlib.ExitStack() as stack:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            return console(stack, folder, start_redis(stack, folder))
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis, hot, peers = start_all(stack, folder)
        tally = hot["Tally, hot"][0][0]
        jars = {server.port: [cookie(server.url) for _ in range(64)] for server, _, _ in peers.values()}
        table = Table()
        for round_ in range(ROUNDS):
            print(f"round {round_ + 1} of {ROUNDS}", file=sys.stderr)
            for name, (server, method, path) in peers.items():
                Load(server, folder, method, path, jars[server.port], 16, 1).result()
                before = redis_cpu(redis)
                result = Load(server, folder, method, path, jars[server.port], 16).result()
                result["store"] = (redis_cpu(redis) - before) / result["requests"] * 1_000
                result["memory"] = server.memory()
                table.add(name, result | {"lost": lost(server, folder, method, path)})
            for name, (servers, method, path) in hot.items():
                jar = cookie(servers[0].url)
                loads = [Load(server, folder, method, path, [jar], 32) for server in servers]
                table.add(name, {"rate": sum(load.result()["rate"] for load in loads)})
            result = Load(tally, folder, "POST", "/api/visit", jars[tally.port], 128).result()
            table.add("Tally, 128 connections", result)
        memory = tally.memory()
        size = stored_sessions(stack, table, folder, tally, jars[tally.port])
        large_sessions(table, folder, redis, tally)
        started, idle = start_time(stack, folder, f"redis://127.0.0.1:{redis.port}/0")
        report(table, peers, size, memory, started, idle)
        console(stack, folder, redis)
        (ROOT / "docs/bench.svg").write_text(chart(table, peers))


def report(table, peers, size, memory, started, idle):
    rate = lambda name: table.median(name, "rate")
    print(f"\n{'16 connections, 64 sessions':<28}{'requests/s':>12}{'spread':>8}{'p50 ms':>8}{'p99 ms':>8}"
          f"{'CPU s/1000':>12}{'Redis':>8}{'MiB':>7}{'lost of 100':>13}{'failed':>8}")
    for name in peers:
        median = lambda figure, name=name: table.median(name, figure)
        print(f"{name:<28}{median('rate'):>12,.0f}{table.spread(name, 'rate'):>7.0f}%{median('p50'):>8.2f}{median('p99'):>8.2f}"
              f"{median('cpu'):>12.3f}{median('store'):>8.3f}{median('memory'):>7.0f}{median('lost'):>13.1f}{median('failed'):>8.0f}")
    print("\ngoals, as ratios within this run")
    page, function, ours, theirs = "Tally, page", "Tally, server function", "tally-session on axum", "tower-sessions on axum"
    at_least = [
        ("tally-session / tower-sessions, requests/s", table.ratio("rate", ours, theirs), 1.05),
        ("Django / page, server CPU", table.ratio("cpu", "Django", page), 28),
        ("Express / page, server CPU", table.ratio("cpu", "Express", page), 7),
        ("one hot session, tally-session / tower-sessions", table.ratio("rate", "tally-session, hot", "tower-sessions, hot"), 1),
        ("one hot session, the app / tower-sessions", table.ratio("rate", "Tally, hot", "tower-sessions, hot"), 1),
        (f"{size:,} sessions stored / 64", table.ratio("rate", "Tally, a million sessions", "Tally, few sessions"), 0.95),
        ("128 connections / 16", table.ratio("rate", "Tally, 128 connections", function), 0.95),
        ("cost per byte, 16 KiB / 64 KiB sessions", byte_costs(table), 0.8),
    ]
    at_most = [
        ("tally-session / tower-sessions, server CPU", table.ratio("cpu", ours, theirs), 0.95),
        ("tally-session / tower-sessions, Redis CPU", table.ratio("store", ours, theirs), 0.7),
        ("page / tower-sessions, server CPU", table.ratio("cpu", page, theirs), 1.3),
        ("server function / tower-sessions, server CPU", table.ratio("cpu", function, theirs), 1.05),
    ]
    for name, ratio, goal in at_least:
        print(f"{name:<48}{ratio:>8.2f}   at least {goal:<6}{'met' if ratio >= goal else 'MISSED'}")
    for name, ratio, goal in at_most:
        print(f"{name:<48}{ratio:>8.2f}   at most  {goal:<6}{'met' if ratio <= goal else 'MISSED'}")
    p99 = [table.median(name, "p99") for name in ["Tally, alone", "Tally, beside 64 KiB"]]
    print(f"\nsessions of 64 KiB: {rate('Tally, 65536 bytes'):,.0f} visits/s; p99 of small sessions {p99[0]:.2f} ms alone, "
          f"{p99[1]:.2f} ms beside large ones")
    print(f"start to first page {started:.0f} ms; resident memory after the load {memory:.0f} MiB; "
          f"CPU time of five idle seconds {idle:.2f} s; binary {(ROOT / 'target/release/tally').stat().st_size / 1e6:.1f} MB")


def byte_costs(table):
    """The cost of an additional byte in sessions of 16 KiB, relative to sessions of 64 KiB. 1 means proportional."""
    empty, medium, large = (1 / table.median(f"Tally, {size} bytes", "rate") for size in [0, 16_384, 65_536])
    return ((medium - empty) / 16_384) / ((large - empty) / 65_536)


def chart(table, peers):
    """A bar chart of requests per second, as an SVG with a light and a dark colour scheme."""
    highest = max(table.median(name, "rate") for name in peers)
    rows = []
    for row, name in enumerate(peers):
        rate, lost_, y = table.median(name, "rate"), table.median(name, "lost"), 60 + row * 44
        ours = "ours" if name.lower().startswith("tally") else "peer"
        remark = "nothing lost" if lost_ < 0.1 else f"{lost_:.0f} of 100 visits lost"
        rows.append(
            f'<text x="16" y="{y + 17}">{name}</text>'
            f'<rect class="{ours}" x="230" y="{y}" width="{max(2, rate / highest * 340):.0f}" height="24" rx="4"/>'
            f'<text x="{238 + rate / highest * 340:.0f}" y="{y + 17}">{rate:,.0f}<tspan class="soft"> · {remark}</tspan></text>'
        )
    height = 60 + len(rows) * 44
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 840 {height}" role="img" '
        f'aria-label="Requests per second, and visits lost with 16 connections on one session" font-family="system-ui, sans-serif" font-size="14">'
        "<style>text{fill:#1c2126}.soft{fill:#59626b}.ours{fill:#0b6b57}.peer{fill:#b9b4a8}"
        "@media(prefers-color-scheme:dark){text{fill:#eceae4}.soft{fill:#a7adb3}.ours{fill:#6fd6b8}.peer{fill:#565d64}}</style>"
        '<text x="16" y="30" font-weight="600">Visits per second, and visits lost with 16 connections on one session</text>'
        + "".join(rows)
        + "</svg>\n"
    )


if __name__ == "__main__":
    main()
