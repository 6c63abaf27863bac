'use strict';

// How a process, and a worker, ends that did not stop its server, while a client sends.

const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const net = require('node:net');
const path = require('node:path');
const { Worker } = require('node:worker_threads');
const { check, ask, until, once } = require('./helpers');

const ENDING = path.join(__dirname, 'ending.js');
const MOST_MS = 10_000; // a second on a machine that is not busy

// Sends again what comes back, until the server is gone.
async function sendAgain(port) {
  const client = net.connect(port, '127.0.0.1');
  client.on('error', () => {});
  client.on('data', (data) => client.write(data));
  client.write('again');
  await once(client, 'close').catch(() => {});
}

const ENDS = {
  return: [0, null],
  exit: [7, null],
  throw: [1, null],
  'throw-in-listener': [1, null],
  reject: [1, null],
  'exit-while-detached': [7, null],
  'return-while-paused': [0, null],
};

for (const [how, [code, signal]] of Object.entries({
  ...ENDS,
  sigterm: [null, 'SIGTERM'],
  sigint: [null, 'SIGINT'],
})) {
  check(`a process ends: ${how}`, async ({ own }) => {
    const child = spawn(process.execPath, [ENDING, how], { stdio: ['ignore', 'pipe', 'pipe'] });
    own({ stop: () => child.kill('SIGKILL') });
    const exited = once(child, 'exit');
    const [line] = await once(child.stdout, 'data');
    const began = performance.now();
    const sent = sendAgain(Number(line));
    assert.deepEqual(await exited, [code, signal]);
    await sent;
    assert.ok(performance.now() - began < MOST_MS);
  });
}

for (const [how, [code]] of Object.entries(ENDS)) {
  check(`a worker ends: ${how}`, async ({ own }) => {
    const worker = new Worker(ENDING, { argv: [how], stderr: true });
    own({ stop: () => worker.terminate() });
    const exited = new Promise((resolve) => {
      worker.on('exit', resolve).on('error', () => {});
    });
    const [port] = await once(worker, 'message');
    const sent = sendAgain(port);
    assert.equal(await exited, code);
    await sent;
  });
}

for (const how of ['serve', 'busy', 'while-detached']) {
  check(`a worker is terminated: ${how}`, async ({ own }) => {
    const descriptors = () => require('node:fs').readdirSync('/proc/self/fd').length;
    const before = descriptors();
    for (let i = 0; i < 5; i += 1) {
      const worker = new Worker(ENDING, { argv: [how] });
      own({ stop: () => worker.terminate() });
      const [port] = await once(worker, 'message');
      const sent = sendAgain(port);
      await once(worker, 'message'); // clients are served
      await worker.terminate();
      await sent;
    }
    await until(() => descriptors() <= before, 'the descriptors are closed');
  });
}

check('two workers serve on one port', async ({ own, connect }) => {
  const workers = [];
  let port = 0;
  for (let i = 0; i < 2; i += 1) {
    const worker = new Worker(ENDING, { argv: ['serve'], workerData: { port } });
    own({ stop: () => worker.terminate() });
    [port] = await once(worker, 'message');
    workers.push(worker);
  }
  const served = workers.map((worker) => once(worker, 'message'));
  let both = false;
  Promise.all(served).then(() => {
    both = true;
  });
  for (let i = 0; i < 1000 && !both; i += 1) {
    const client = await connect({ address: () => ({ port }) });
    assert.equal(await ask(client, 'x'), 'x');
    client.destroy();
  }
  assert.ok(both);
});
