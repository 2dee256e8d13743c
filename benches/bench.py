#!/usr/bin/env python3
"""Loads Tally and its peers in turn, all on one Redis, and prints one table. `make bench` runs it.

Rounds are interleaved, so that whatever else the machine does meets all alike; figures are medians,
with the spread beside them. The peers stand in benches/peers/. All do the same for a request: find
the session by its cookie, count a visit, save it in Redis, and send the cookie again for two weeks.
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
            sys.exit(f"{process.args} ended with {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.01)
    sys.exit(f"{process.args} does not listen")


class Server:
    """A process on a free port, with whatever processes it starts."""

    def __init__(self, stack, folder, command, environment=None):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = open(folder / f"{self.port}.log", "w")
        self.began = time.monotonic()
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
        """Its process group, and its children: PostgreSQL gives each of them a group of its own."""
        for entry in pathlib.Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                if int(entry.name) and self.process.pid in (int(fields[1]), int(fields[2])):
                    yield entry.name, fields

    def cpu(self):
        """Seconds of computing so far."""
        return sum(int(fields[11]) + int(fields[12]) for _, fields in self.processes()) / TICKS

    def memory(self):
        """Resident MiB."""
        pages = sum(int(fields[21]) for _, fields in self.processes())
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def cookie(url, path="/"):
    with urllib.request.urlopen(url + path) as answer:
        return "; ".join(header.split(";")[0] for header in answer.headers.get_all("Set-Cookie"))


def count(url, path, jar):
    """The number that the next visit is answered."""
    request = urllib.request.Request(url + path, headers={"Cookie": jar})
    with urllib.request.urlopen(request) as answer:
        text = re.sub(r"<!--.*?-->|<[^>]*>", "", answer.read().decode().split("<body", 1)[-1])
    return int(re.search(r"(?:Visit count: )?(\d+)", text[text.find("Visit count: ") if "Visit count: " in text else 0 :])[1])


class Load:
    """One run of wrk."""

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
    """Results by name, one list a figure."""

    def add(self, name, result):
        for figure, value in result.items():
            self.setdefault(name, {}).setdefault(figure, []).append(value)

    def median(self, name, figure):
        return statistics.median(self[name][figure])

    def spread(self, name, figure):
        """Half of the way from the least to the most, in per cent of the median."""
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
    tallies, bares = [tally(), tally()], [bare(), bare()]
    peers = {
        "Tally, page": (tallies[0], "GET", "/"),
        "Tally, server function": (tallies[0], "POST", "/api/visit"),
        "tally-session on axum": (rust("tally-counter", 4), "GET", "/"),
        "tower-sessions on axum": (bares[0], "GET", "/"),
        "axum_session on axum": (rust("axum-session-counter", 5), "GET", "/"),
        "actix-session on actix-web": (rust("actix-counter", 6), "GET", "/"),
        "Express": (express, "GET", "/"),
        "Django": (django, "GET", "/"),
    }
    return redis, tallies, bares, peers


def postgres_program(name):
    """Debian keeps PostgreSQL's programs off the PATH, and none of them runs as root."""
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
    """Tally and its peers on one PostgreSQL, and Tally on Redis beside them."""
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
    """Of 100 visits with 16 connections on one session, how many are not in the count."""
    jar = cookie(server.url)
    before = count(server.url, "/", jar)
    result = Load(server, folder, method, path, [jar], 16, 2).result()
    counted = count(server.url, "/", jar) - before - 1
    return max(0.0, 1 - counted / result["requests"]) * 100


def start_time(stack, folder, store):
    """Milliseconds from the start of a server to its first page."""
    server = start_tally(stack, folder, store)
    cookie(server.url)
    took = (time.monotonic() - server.began) * 1_000
    before = server.cpu()
    time.sleep(5)
    idle = server.cpu() - before
    server.stop()
    return took, idle


def fill(redis, sessions):
    """Copies one session to so many ids, each with a life of two weeks."""
    script = (
        "local key = redis.call('RANDOMKEY') local value = redis.call('GET', key) "
        "for number = 1, ARGV[1] do redis.call('SET', 'filled:' .. number, value, 'EX', 1209600) end "
        "return redis.call('DBSIZE')"
    )
    return int(ask(redis, "eval", script, 0, sessions).split()[-1])


def grow(redis, size):
    """Gives every session in Tally's database so many bytes to keep."""
    keys = ask(redis, "keys", "*").split()
    subprocess.run([ROOT / "target/debug/examples/grow", f"redis://127.0.0.1:{redis.port}/0", str(size), *keys], check=True)


def large_sessions(table, folder, redis, tally):
    """Sessions of 16 and of 64 KiB beside ordinary ones, and what those notice of them."""
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
    """Somebody who has signed in to the console."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_):
            return None

    def __init__(self, server):
        self.server = server
        try:
            urllib.request.build_opener(self.Stay).open(server.url + "/admin", f"password={PASSWORD.replace(' ', '+')}".encode())
        except urllib.error.HTTPError as answer:
            self.cookie = answer.headers["Set-Cookie"].split(";")[0]

    def page(self, path, body=None):
        """A page, and the milliseconds that it took."""
        request = urllib.request.Request(self.server.url + path, body, {"Cookie": self.cookie})
        began = time.monotonic()
        with urllib.request.urlopen(request) as answer:
            text = answer.read().decode()
        return text, (time.monotonic() - began) * 1_000

    def alive(self):
        return int(re.search(r"sessions alive</dt><dd>([\d,]+)", self.page("/admin")[0])[1].replace(",", ""))


def console_costs(stack, folder, redis, table):
    """What a console costs visitors: the same load, in turn, on a server with one and on one without."""
    ask(redis, "flushall")
    store = f"redis://127.0.0.1:{redis.port}/0"
    servers = {"with": start_tally(stack, folder, store, console=True), "without": start_tally(stack, folder, store)}
    for sessions in [64, 10_000]:
        jars = {name: [cookie(server.url) for _ in range(sessions)] for name, server in servers.items()}
        # Many short runs, each beside one of the other: the difference is smaller than what the machine changes in a minute.
        for round_ in range(5 * ROUNDS):
            for name, server in list(servers.items())[:: 1 if round_ % 2 else -1]:
                table.add(f"{name} a console, {sessions}", Load(server, folder, "POST", "/api/visit", jars[name], 16, 2).result())
    for server in servers.values():
        server.stop()
    print("\nwhat the operator's console costs visitors, 16 connections")
    for sessions in [64, 10_000]:
        with_, without = (f"{name} a console, {sessions}" for name in servers)
        # Of two runs side by side, for the machine itself changes by more.
        ratio = statistics.median(a / b for a, b in zip(table[with_]["rate"], table[without]["rate"]))
        print(f"{sessions:>6,} sessions: {table.median(with_, 'rate'):,.0f} visits a second with one (± {table.spread(with_, 'rate'):.0f} %), "
              f"{table.median(without, 'rate'):,.0f} without (± {table.spread(without, 'rate'):.0f} %): {ratio:.2f}   "
              f"goal 0.95  {'met' if ratio >= 0.95 else 'MISSED'}")


def time_pages(operator):
    """How long the console's pages take."""
    label = re.findall(r'/admin/sessions/([\w-]{10})"', operator.page("/admin/sessions?page=12345")[0])[7]
    paths = ["/admin", "/admin/sessions", "/admin/sessions?page=10000", "/admin/sessions?page=20000",
             f"/admin/sessions?short_id={label[:3]}", f"/admin/sessions?short_id={label}", f"/admin/sessions/{label}",
             "/admin/sessions?user=operator", "/admin/sign-ins"]
    for path in paths:
        took = sorted(operator.page(path)[1] for _ in range(20))
        print(f"{path.replace(label, 'SHORT_ID'):<36}{statistics.median(took):>8.1f} ms, at the most {took[-1]:.1f}   "
              f"goal 200    {'met' if took[-1] <= 200 else 'MISSED'}")


def console_of_a_million(stack, folder, redis):
    """How long the console's pages take with a million sessions, and the longest that Redis is busy with one command."""
    ask(redis, "flushall")
    store = f"redis://127.0.0.1:{redis.port}/0"
    used = lambda: int(re.search(r"used_memory:(\d+)", ask(redis, "info", "memory"))[1])
    subprocess.run([ROOT / "target/debug/examples/fill", store, "1000000"], check=True)
    before = used()
    ask(redis, "config", "set", "slowlog-log-slower-than", "1000")
    ask(redis, "config", "set", "slowlog-max-len", "100000")
    ask(redis, "slowlog", "reset")
    server = start_tally(stack, folder, store, console=True)
    began = time.monotonic()
    operator = Operator(server)
    while operator.alive() < 1_000_000:
        time.sleep(0.2)
    listed = time.monotonic() - began
    index = (used() - before) / 1_000_000
    print(f"\nthe console on Redis with a million sessions, each of another user; lists of {index:.0f} bytes a session, made in {listed:.0f} s")
    time_pages(operator)
    began = time.monotonic()
    operator.page("/admin/revoke-others", b"")
    while operator.alive() > 1:
        time.sleep(0.2)
    print(f"all sessions but the operator's revoked in {time.monotonic() - began:.0f} s")
    print(f"the longest that Redis was busy with one command: {slowest(redis)}")
    server.stop()


def the_console(stack, folder, redis):
    console_costs(stack, folder, redis, Table())
    console_of_a_million(stack, folder, redis)


def slowest(redis):
    """Redis's own word on its longest command: milliseconds, and its name."""
    script = (
        "local most, name = 0, '' for _, entry in ipairs(redis.call('SLOWLOG', 'GET', -1)) do "
        "if entry[3] > most then most, name = entry[3], entry[4][1] .. ' ' .. (entry[4][2] or '') end end return most .. ' ' .. name"
    )
    most, name = (ask(redis, "eval", script, 0) + " ").split(" ", 1)
    return f"{int(most) / 1_000:.1f} ms ({name[:60].strip()})" if int(most) else "less than 1 ms"


def memory_over(minutes):
    """Resident memory under full load, page and server function, minute by minute."""
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = start_redis(stack, folder)
        store = f"redis://127.0.0.1:{redis.port}/0"
        tally = start_tally(stack, folder, store)
        jars = [cookie(tally.url) for _ in range(1_000)]
        most = []
        for minute in range(minutes):
            loads = [Load(tally, folder, method, path, jars, 16, 60) for method, path in [("GET", "/"), ("POST", "/api/visit")]]
            seen = []
            while any(load.wrk.poll() is None for load in loads):
                seen.append(tally.memory())
                time.sleep(1)
            rate = sum(load.result()["rate"] for load in loads)
            most.append(max(seen))
            print(f"minute {minute + 1}: {rate:,.0f} requests/s, {max(seen):.1f} MiB resident")
        print(f"resident memory over {minutes} minutes of full load: {max(most):.1f} MiB at the most; "
              f"the last minute {most[-1] / most[0]:.2f} x the first")


def main():
    if sys.argv[1:] == ["memory"]:
        return memory_over(int(os.environ.get("MINUTES", 10)))
    if sys.argv[1:] == ["sql"]:
        with contextlib.ExitStack() as stack:
            return sql(stack, pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())))
    if sys.argv[1:] == ["console"]:
        with contextlib.ExitStack() as stack:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            return the_console(stack, folder, start_redis(stack, folder))
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis, tallies, bares, peers = start_all(stack, folder)
        tally = tallies[0]
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
            for name, servers, method, path in [("Tally, hot", tallies, "POST", "/api/visit"), ("bare, hot", bares, "GET", "/")]:
                jar = cookie(servers[0].url)
                loads = [Load(server, folder, method, path, [jar], 32) for server in servers]
                table.add(name, {"rate": sum(load.result()["rate"] for load in loads)})
            result = Load(tally, folder, "POST", "/api/visit", jars[tally.port], 128).result()
            table.add("Tally, 128 connections", result)
        memory = tally.memory()
        print("filling Redis with a million sessions", file=sys.stderr)
        size = fill(redis, 1_000_000)
        for _ in range(ROUNDS):
            table.add("Tally, a million sessions", Load(tally, folder, "POST", "/api/visit", jars[tally.port], 16).result())
        ask(redis, "flushall")
        jars[tally.port] = [cookie(tally.url) for _ in range(64)]
        for _ in range(ROUNDS):
            table.add("Tally, few sessions", Load(tally, folder, "POST", "/api/visit", jars[tally.port], 16).result())
        large_sessions(table, folder, redis, tally)
        started, idle = start_time(stack, folder, f"redis://127.0.0.1:{redis.port}/0")
        report(table, peers, size, memory, started, idle)
        the_console(stack, folder, redis)
        (ROOT / "docs/bench.svg").write_text(chart(table, peers))


def report(table, peers, size, memory, started, idle):
    rate = lambda name: table.median(name, "rate")
    cpu = lambda name: table.median(name, "cpu")
    print(f"\n{'16 connections, 64 sessions':<28}{'requests/s':>12}{'spread':>8}{'p50 ms':>8}{'p99 ms':>8}"
          f"{'CPU s/1000':>12}{'Redis':>8}{'MiB':>7}{'lost of 100':>13}{'failed':>8}")
    for name in peers:
        median = lambda figure, name=name: table.median(name, figure)
        print(f"{name:<28}{median('rate'):>12,.0f}{table.spread(name, 'rate'):>7.0f}%{median('p50'):>8.2f}{median('p99'):>8.2f}"
              f"{median('cpu'):>12.3f}{median('store'):>8.3f}{median('memory'):>7.0f}{median('lost'):>13.1f}{median('failed'):>8.0f}")
    print("\ngoals, each a ratio in this run")
    page, function, ours, theirs = "Tally, page", "Tally, server function", "tally-session on axum", "tower-sessions on axum"
    at_least = [
        ("tally-session / tower-sessions, requests/s", rate(ours) / rate(theirs), 1.05),
        ("Django / page, server CPU", cpu("Django") / cpu(page), 28),
        ("Express / page, server CPU", cpu("Express") / cpu(page), 7),
        ("one hot session, two servers / tower-sessions", rate("Tally, hot") / rate("bare, hot"), 1),
        (f"{size:,} sessions stored / 64", rate("Tally, a million sessions") / rate("Tally, few sessions"), 0.95),
        ("128 connections / 16", rate("Tally, 128 connections") / rate(function), 0.95),
        ("a byte of 16 KiB sessions / of 64 KiB", byte_costs(table), 0.8),
    ]
    at_most = [
        ("tally-session / tower-sessions, server CPU", cpu(ours) / cpu(theirs), 0.95),
        ("tally-session / tower-sessions, Redis CPU", table.median(ours, "store") / table.median(theirs, "store"), 0.7),
        ("page / tower-sessions, server CPU", cpu(page) / cpu(theirs), 1.3),
        ("server function / tower-sessions, server CPU", cpu(function) / cpu(theirs), 1.05),
    ]
    for name, ratio, goal in at_least:
        print(f"{name:<48}{ratio:>8.2f}   at least {goal:<6}{'met' if ratio >= goal else 'MISSED'}")
    for name, ratio, goal in at_most:
        print(f"{name:<48}{ratio:>8.2f}   at most  {goal:<6}{'met' if ratio <= goal else 'MISSED'}")
    beside = [table.median(name, "p99") for name in ["Tally, alone", "Tally, beside 64 KiB"]]
    print(f"\nvisits a second of sessions of 64 KiB {rate('Tally, 65536 bytes'):,.0f}; p99 of small ones {beside[0]:.2f} ms alone, "
          f"{beside[1]:.2f} ms beside them")
    print(f"start to first page {started:.0f} ms; resident after the load {memory:.0f} MiB; "
          f"CPU of five idle seconds {idle:.2f} s; binary {(ROOT / 'target/release/tally').stat().st_size / 1e6:.1f} MB")


def byte_costs(table):
    """What a byte more costs in sessions of 16 KiB, by what it costs in those of 64 KiB: 1 is in proportion."""
    empty, medium, large = (1 / table.median(f"Tally, {size} bytes", "rate") for size in [0, 16_384, 65_536])
    return ((medium - empty) / 16_384) / ((large - empty) / 65_536)


def chart(table, peers):
    """Bars of the requests a second, as an SVG that follows the reader's light or dark."""
    most = max(table.median(name, "rate") for name in peers)
    rows = []
    for row, name in enumerate(peers):
        rate, lost_, y = table.median(name, "rate"), table.median(name, "lost"), 60 + row * 44
        ours = "ours" if name.lower().startswith("tally") else "peer"
        said = "nothing lost" if lost_ < 0.1 else f"{lost_:.0f} of 100 visits lost"
        rows.append(
            f'<text x="16" y="{y + 17}">{name}</text>'
            f'<rect class="{ours}" x="230" y="{y}" width="{max(2, rate / most * 340):.0f}" height="24" rx="4"/>'
            f'<text x="{238 + rate / most * 340:.0f}" y="{y + 17}">{rate:,.0f}<tspan class="soft"> · {said}</tspan></text>'
        )
    height = 60 + len(rows) * 44
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 840 {height}" role="img" '
        f'aria-label="Requests a second, and visits lost with 16 connections on one session" font-family="system-ui, sans-serif" font-size="14">'
        "<style>text{fill:#1c2126}.soft{fill:#59626b}.ours{fill:#0b6b57}.peer{fill:#b9b4a8}"
        "@media(prefers-color-scheme:dark){text{fill:#eceae4}.soft{fill:#a7adb3}.ours{fill:#6fd6b8}.peer{fill:#565d64}}</style>"
        '<text x="16" y="30" font-weight="600">Visits a second, and what 16 connections on one session lose</text>'
        + "".join(rows)
        + "</svg>\n"
    )


if __name__ == "__main__":
    main()
