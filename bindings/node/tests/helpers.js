'use strict';

// What the tests share. Each wait has a deadline; node:test reports it as a failure.

const { once } = require('node:events');
const net = require('node:net');
const path = require('node:path');
const { test } = require('node:test');
const { createServer } = require('..');

const DEADLINE_MS = 60_000;
const ROOT = path.join(__dirname, '..', '..', '..');
const DATA = path.join(ROOT, 'tests', 'data');
const TARGET = path.resolve(ROOT, process.env.CARGO_TARGET_DIR ?? 'target');

// A test that ends its servers and clients, whatever happens: also where it waits in vain.
function check(name, run) {
  test(name, { timeout: DEADLINE_MS }, async (t) => {
    const owned = [];
    const own = (thing) => {
      owned.push(thing);
      return thing;
    };
    try {
      await Promise.race([run({ t, ...tools(own) }), once(t.signal, 'abort')]);
    } finally {
      for (const thing of owned.reverse()) await thing.stop();
    }
  });
}

function tools(own) {
  // A server on any free port of the loopback; resolves when it listens.
  async function serve(options, listener) {
    const where = ['path', 'service', 'fd', 'port'].some((name) => options[name] !== undefined);
    const server = createServer(where ? options : { host: '127.0.0.1', ...options }, listener);
    own({ stop: () => closed(server) });
    if (!server.listening) server.listen();
    await once(server, 'listening');
    return server;
  }

  // A client of node:net that is connected.
  async function connect(server, options = {}) {
    const address = server.address();
    const to = typeof address === 'string' ? { path: address } : { port: address.port };
    const client = net.connect({ host: '127.0.0.1', ...to, ...options });
    own({ stop: () => client.destroy() });
    await once(client, 'connect');
    client.on('error', () => {}); // a test that expects one listens for it too
    return client;
  }

  return { serve, connect, own };
}

function closed(server) {
  return new Promise((resolve) => {
    if (server._number === -1) resolve();
    else server.once('close', resolve).destroy();
  });
}

// Reads `size` bytes, or all there is until the end.
async function read(stream, size = Infinity) {
  const parts = [];
  let length = 0;
  if (stream.readableEnded) return Buffer.alloc(0);
  return new Promise((resolve, reject) => {
    const done = (result, value) => {
      stream.off('data', onData).off('end', onEnd).off('error', onError);
      stream.pause();
      result(value);
    };
    const onEnd = () => done(resolve, Buffer.concat(parts));
    const onError = (error) => done(reject, error);
    const onData = (data) => {
      parts.push(data);
      length += data.length;
      if (length >= size) onEnd();
    };
    stream.on('data', onData).on('end', onEnd).on('error', onError);
    stream.resume();
  });
}

async function ask(client, text, size = text.length) {
  client.write(text);
  return (await read(client, size)).toString();
}

function echo(socket) {
  socket.on('data', (data) => {
    if (!socket.write(data)) socket.pause();
  });
  socket.on('drain', () => socket.resume());
}

// Waits until a condition holds that no event tells.
async function until(condition, what) {
  const deadline = performance.now() + DEADLINE_MS / 2;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`not within the deadline: ${what}`);
    await new Promise((resolve) => {
      setTimeout(resolve, 5);
    });
  }
}

module.exports = { check, read, ask, echo, until, once, closed, ROOT, DATA, TARGET, DEADLINE_MS };
