// A visit counter as in the documentation of Express. node server.js PORT STORE_URL PROCESSES
import cluster from "node:cluster";
import { join } from "node:path";
import connectPgSimple from "connect-pg-simple";
import { RedisStore } from "connect-redis";
import express from "express";
import session from "express-session";
import { createClient } from "redis";

const links = [
  { path: "/", text: "Counter", current: true },
  { path: "/about", text: "Your session", current: false },
  { path: "/reset", text: "Reset", current: false },
];
const [port, url, processes] = process.argv.slice(2);

async function inRedis(ttl) {
  const client = createClient({ url });
  await client.connect();
  return new RedisStore({ client, ttl });
}

function inPostgres() {
  return new (connectPgSimple(session))({ conString: url });
}

if (cluster.isPrimary) {
  for (let started = 0; started < Number(processes); started++) cluster.fork();
} else {
  const twoWeeks = 1_209_600;
  const store = url.startsWith("postgres") ? inPostgres() : await inRedis(twoWeeks);
  const app = express();
  app.use(
    session({
      store,
      secret: "only for this benchmark",
      name: "sessionid",
      resave: false,
      saveUninitialized: false,
      rolling: true,
      cookie: { httpOnly: true, sameSite: "lax", maxAge: twoWeeks * 1000 },
    }),
  );
  app.all("/", (request, response) => {
    request.session.visits = (request.session.visits ?? 0) + 1;
    response.render("counter.ejs", { title: "Counter", links, visits: request.session.visits });
  });
  app.set("views", join(import.meta.dirname, "views"));
  app.listen(Number(port), "127.0.0.1");
}
