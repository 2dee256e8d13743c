// A visit counter as Express' documentation shows it. node server.js PORT REDIS_URL PROCESSES
import cluster from "node:cluster";
import { join } from "node:path";
import { RedisStore } from "connect-redis";
import express from "express";
import session from "express-session";
import { createClient } from "redis";

const links = [
  { path: "/", text: "Counter", current: true },
  { path: "/about", text: "Your session", current: false },
  { path: "/reset", text: "Reset", current: false },
];
const [port, redis, processes] = process.argv.slice(2);

if (cluster.isPrimary) {
  for (let started = 0; started < Number(processes); started++) cluster.fork();
} else {
  const client = createClient({ url: redis });
  await client.connect();
  const twoWeeks = 1_209_600;
  const app = express();
  app.use(
    session({
      store: new RedisStore({ client, ttl: twoWeeks }),
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
