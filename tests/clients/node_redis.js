// node-redis: every feature once, then rounds of work over a failover (see tests/clients.rs).
"use strict";
const assert = require("node:assert");
const { createClient, createClientPool, defineScript } = require("redis");

const port = Number(process.argv[2]);
const saw = {
  client: `node-redis ${require("redis/package.json").version}`,
  features: [], rounds: 0, after: 0, messages_after: 0, errors: [],
};
const echo = defineScript({
  SCRIPT: "return {KEYS[1], ARGV[1]}",
  NUMBER_OF_KEYS: 1,
  parseCommand(parser, key, value) { parser.pushKey(key); parser.push(value); },
  transformReply: undefined,
});

async function client(options = {}) {
  // It would connect again without a word.
  const socket = { host: "127.0.0.1", port, reconnectStrategy: false };
  const c = createClient({ socket, scripts: { echo }, ...options });
  c.on("error", (error) => saw.errors.push(["connection", String(error)]));
  return c.connect();
}

async function note(what, work) {
  try {
    return await work();
  } catch (error) {
    saw.errors.push([what, String(error)]);
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** What another client writes is seen through the cache, soon. */
async function cacheFollows(c, writer, value) {
  await writer.set("cached", value);
  for (let n = 0; n < 500; n++) {
    if ((await c.get("cached")) === value) return;
    await pause(10);
  }
  throw new Error("the cache is stale");
}

const withCache = () => client({ RESP: 3, clientSideCache: { ttl: 0, maxEntries: 0, evictPolicy: "LRU" } });

const features = {
  async handshake() {
    for (const RESP of [2, 3]) {
      const c = await client({ RESP, name: "me" });
      assert.equal(await c.ping(), "PONG");
      assert.equal(await c.clientGetName(), "me");
      // Redis before 7.2 knows no CLIENT SETINFO.
      assert.match(String(await c.sendCommand(["CLIENT", "INFO"])), /lib-name=node-redis|^((?!lib-name).)*$/s);
    }
  },
  async pool() {
    const pool = createClientPool({ socket: { host: "127.0.0.1", port } }, { maximum: 8 });
    await pool.connect();
    await Promise.all(Array.from({ length: 300 }, () => pool.incr("pool")));
    assert.equal(await pool.get("pool"), "300");
    pool.destroy();
  },
  async pipeline() {
    const c = await client();
    const values = await Promise.all(Array.from({ length: 1000 }, async (_, n) => {
      c.set(`p${n}`, String(n));
      return c.get(`p${n}`);
    }));
    assert.deepEqual(values, Array.from({ length: 1000 }, (_, n) => String(n)));
  },
  async transaction() {
    const [c, other] = [await client(), await client()];
    await c.watch("t");
    await other.set("t", "7");
    await assert.rejects(c.multi().set("t", "8").exec(), /watched keys/);
    assert.deepEqual(await c.multi().incr("t").incr("t").exec(), [8, 9]);
  },
  async pubsub() {
    for (const RESP of [2, 3]) {
      const s = await client({ RESP });
      const messages = [];
      await s.subscribe("a", (text) => messages.push(text));
      await s.pSubscribe("p*", (text) => messages.push(text));
      const publisher = await client();
      await publisher.publish("a", "1");
      await publisher.publish("px", "2");
      for (let n = 0; n < 500 && messages.length < 2; n++) await pause(10);
      assert.deepEqual(messages.sort(), ["1", "2"]);
      await s.unsubscribe("a");
      await s.pUnsubscribe("p*");
      assert.equal(await s.ping(), "PONG");
    }
  },
  async blocking() {
    const [c, other] = [await client(), await client()];
    assert.equal(await c.blPop("empty", 0.1), null);
    const popped = c.blPop("queue", 10);
    await other.rPush("queue", "x");
    assert.deepEqual({ ...(await popped) }, { key: "queue", element: "x" });
  },
  async scripts() {
    const c = await client();
    await c.scriptFlush();
    assert.deepEqual(await c.echo("k", "v"), ["k", "v"]);
    assert.deepEqual(await c.echo("k", "w"), ["k", "w"]);
  },
  async large() {
    const [c, value] = [await client(), "x".repeat(3_000_000)];
    await c.set("large", value);
    assert.equal(await c.get("large"), value);
  },
  async cache() {
    const [c, writer] = [await withCache(), await client()];
    for (const value of ["1", "2", "3"]) await cacheFollows(c, writer, value);
  },
};

async function round(c, blocked, cached, who, n) {
  const [key, value] = [`key-${who}`, `key-${who}-${n}`];
  await note("set", () => c.set(key, value));
  const got = await note("get", () => c.get(key));
  if (got && !got.startsWith(key + "-")) saw.errors.push(["get", `somebody else's value ${got}`]);
  await note("incr", () => c.incr(`n-${who}`));
  await note("pipeline", () => Promise.all([c.set(key, value), c.get(key)]));
  await note("exec", () => c.multi().set(key, value).incr(`m-${who}`).exec());
  await note("script", () => c.echo(key, value));
  await note("push", () => c.rPush(`q-${who}`, value));
  await note("blpop", () => blocked.blPop(`q-${who}`, 1));
  await note("publish", () => c.publish("news", value));
  if (n % 20 === 0) {
    await note("large", () => c.set(`big-${who}`, "x".repeat(1_000_000)));
    await note("large", () => c.get(`big-${who}`));
    if (cached) await note("cache", () => cacheFollows(cached, c, value));
  }
}

async function main() {
  for (const [name, feature] of Object.entries(features)) {
    const before = saw.errors.length;
    await note(name, feature);
    if (saw.errors.length === before) saw.features.push(name);
  }
  let stopping = false;
  const listener = await client({ RESP: 3 });
  await listener.subscribe("news", () => { if (stopping) saw.messages_after++; });
  const c = await client();
  const work = async (who) => {
    const blocked = await client();
    const cached = who === 0 ? await withCache() : null;
    for (let n = 0, after = 0; after < 20; n++) {
      await round(c, blocked, cached, who, n);
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
