'use strict';

// The echo of the README, and the declarations, are what users see first.

const assert = require('node:assert/strict');
const { spawn, spawnSync } = require('node:child_process');
const fs = require('node:fs');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const { check, ask, once, ROOT, TARGET } = require('./helpers');
const netserver = require('..');

const PACKAGE = path.join(__dirname, '..');

function folder(own) {
  const made = fs.mkdtempSync(path.join(os.tmpdir(), 'netserver-node-'));
  own({ stop: () => fs.rmSync(made, { recursive: true }) });
  fs.mkdirSync(path.join(made, 'node_modules'));
  fs.symlinkSync(PACKAGE, path.join(made, 'node_modules', 'netserver'));
  return made;
}

check('the echo of the README serves', async ({ own }) => {
  const readme = fs.readFileSync(path.join(PACKAGE, 'README.md'), 'utf8');
  const [, code] = /<!-- echo -->\n```js\n(.*?)```\n/s.exec(readme);
  const file = path.join(folder(own), 'echo.js');
  fs.writeFileSync(file, code);
  const child = spawn(process.execPath, [file, '0'], { stdio: ['ignore', 'pipe', 'inherit'] });
  own({ stop: () => child.kill('SIGKILL') });
  const exited = once(child, 'exit');
  const [line] = await once(child.stdout, 'data');
  const client = net.connect(Number(/\d+/.exec(line)), '127.0.0.1');
  own({ stop: () => client.destroy() });
  assert.equal(await ask(client, 'hello'), 'hello');
  child.kill('SIGINT');
  assert.deepEqual(await exited, [0, null]);
});

check('import by names', async ({ own }) => {
  const file = path.join(folder(own), 'names.mjs');
  fs.writeFileSync(file, `import { ${Object.keys(netserver).join(', ')} } from 'netserver';`);
  const { status, stderr } = spawnSync(process.execPath, [file], { encoding: 'utf8' });
  assert.equal(stderr, '');
  assert.equal(status, 0);
});

check('the declarations fit their use', async () => {
  const modules = path.join(TARGET, 'bindings', 'node', 'node_modules');
  const tsc = path.join(modules, 'typescript', 'bin', 'tsc');
  const { status, stdout } = spawnSync(process.execPath, [
    tsc, '--noEmit', '--strict', '--target', 'es2022', '--module', 'node16',
    '--typeRoots', path.join(modules, '@types'), '--types', 'node',
    path.join(__dirname, 'usage.ts'),
  ], { encoding: 'utf8', cwd: ROOT });
  assert.equal(stdout, '');
  assert.equal(status, 0);
});

check('the declarations name what there is', async () => {
  const text = fs.readFileSync(path.join(PACKAGE, 'index.d.ts'), 'utf8');
  for (const name of Object.keys(netserver)) {
    assert.match(text, new RegExp(`export declare (const|class|function) ${name}\\b`));
  }
  const membersOf = (name) => new RegExp(`export declare class ${name} .*?\n}\n`, 's').exec(text)[0];
  for (const name of ['Server', 'Socket', 'DetachedSocket']) {
    const members = Object.getOwnPropertyNames(netserver[name].prototype)
      .filter((member) => !/^_|^(constructor|addListener)$/.test(member));
    for (const member of members) assert.match(membersOf(name), new RegExp(`\\b${member}\\b`), member);
  }
});
