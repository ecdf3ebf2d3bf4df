// ioredis: every feature once, then rounds of work over a failover (see tests/clients.rs).
"use strict";
const assert = require("node:assert");
const Redis = require("ioredis");

const port = Number(process.argv[2]);
const saw = {
  client: `ioredis ${require("ioredis/package.json").version}`,
  features: [], rounds: 0, after: 0, messages_after: 0, errors: [],
};
const clients = [];

function client(options = {}) {
  const c = new Redis({ host: "127.0.0.1", port, ...options });
  // It would connect again without a word.
  c.on("reconnecting", () => saw.errors.push(["connection", "it was closed"]));
  c.on("error", (error) => saw.errors.push(["connection", String(error)]));
  clients.push(c);
  return c;
}

async function note(what, work) {
  try {
    return await work();
  } catch (error) {
    saw.errors.push([what, String(error)]);
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function all(results) {
  for (const [error] of results) if (error) throw error;
  return results.map(([, value]) => value);
}

const features = {
  async handshake() {
    const c = client({ connectionName: "me" });
    assert.equal(await c.ping(), "PONG");
    assert.equal(await c.client("GETNAME"), "me");
    assert.match(await c.client("INFO"), /lib-name=ioredis|^((?!lib-name).)*$/s);
  },
  async pool() {
    const pool = [client(), client(), client()];
    await Promise.all(Array.from({ length: 300 }, (_, n) => pool[n % 3].incr("pool")));
    assert.equal(await pool[0].get("pool"), "300");
  },
  async pipeline() {
    const p = client().pipeline();
    for (let n = 0; n < 1000; n++) p.set(`p${n}`, n).get(`p${n}`);
    const values = all(await p.exec()).filter((_, n) => n % 2 === 1);
    assert.deepEqual(values, Array.from({ length: 1000 }, (_, n) => String(n)));
    const auto = client({ enableAutoPipelining: true });
    await Promise.all(Array.from({ length: 100 }, (_, n) => auto.set(`p${n}`, n)));
  },
  async transaction() {
    const [c, other] = [client(), client()];
    await c.watch("t");
    await other.set("t", 7);
    assert.equal(await c.multi().set("t", 8).exec(), null);
    assert.deepEqual(all(await c.multi().incr("t").incr("t").exec()), [8, 9]);
    await c.multi({ pipeline: false });
    await c.incr("t");
    assert.deepEqual(all(await c.exec()), [10]);
  },
  async pubsub() {
    const s = client();
    const messages = [];
    s.on("message", (channel, text) => messages.push([channel, text]));
    s.on("pmessage", (_, channel, text) => messages.push([channel, text]));
    await s.subscribe("a");
    await s.psubscribe("p*");
    await client().publish("a", "1");
    await client().publish("px", "2");
    for (let n = 0; n < 500 && messages.length < 2; n++) await pause(10);
    assert.deepEqual(messages.sort(), [["a", "1"], ["px", "2"]]);
    await s.unsubscribe("a");
    await s.punsubscribe("p*");
    assert.equal(await s.ping(), "PONG");
  },
  async blocking() {
    const c = client();
    assert.equal(await c.blpop("empty", 0.1), null);
    const popped = c.blpop("queue", 10);
    await client().rpush("queue", "x");
    assert.deepEqual(await popped, ["queue", "x"]);
  },
  async scripts() {
    const c = client({ scripts: { echo: { lua: "return {KEYS[1], ARGV[1]}", numberOfKeys: 1 } } });
    await c.script("FLUSH");
    assert.deepEqual(await c.echo("k", "v"), ["k", "v"]);
    assert.deepEqual(await c.echo("k", "w"), ["k", "w"]);
  },
  async large() {
    const [c, value] = [client(), "x".repeat(3_000_000)];
    await c.set("large", value);
    assert.equal(await c.get("large"), value);
  },
};

async function round(c, blocked, who, n) {
  const [key, value] = [`key-${who}`, `key-${who}-${n}`];
  await note("set", () => c.set(key, value));
  const got = await note("get", () => c.get(key));
  if (got && !got.startsWith(key + "-")) saw.errors.push(["get", `somebody else's value ${got}`]);
  await note("incr", () => c.incr(`n-${who}`));
  await note("pipeline", async () => all(await c.pipeline().set(key, value).get(key).exec()));
  await note("exec", async () => all(await c.multi().set(key, value).incr(`m-${who}`).exec()));
  await note("script", () => c.same(key, n));
  await note("push", () => c.rpush(`q-${who}`, value));
  await note("blpop", () => blocked.blpop(`q-${who}`, 1));
  await note("publish", () => c.publish("news", value));
  if (n % 20 === 0) {
    await note("large", () => c.set(`big-${who}`, "x".repeat(1_000_000)));
    await note("large", () => c.get(`big-${who}`));
  }
}

async function main() {
  for (const [name, feature] of Object.entries(features)) {
    const before = saw.errors.length;
    await note(name, feature);
    if (saw.errors.length === before) saw.features.push(name);
  }
  let stopping = false;
  const listener = client();
  listener.on("message", () => { if (stopping) saw.messages_after++; });
  await listener.subscribe("news");
  const c = client({ scripts: { same: { lua: "return ARGV[1]", numberOfKeys: 1 } } });
  const work = async (who) => {
    const blocked = client();
    for (let n = 0, after = 0; after < 20; n++) {
      await round(c, blocked, who, n);
      if (++saw.rounds === 20) console.log("ready");
      if (stopping) { after++; saw.after++; }
    }
  };
  process.stdin.on("data", () => {}).on("end", () => { stopping = true; });
  await Promise.all([0, 1, 2, 3].map(work));
  await pause(200);
  console.log(JSON.stringify(saw));
  process.exit(0);
}

main();
