'use strict';

// Compiles the addon with `cc`, by `npm install` or by hand; does nothing where all is up to date.
// node-gyp would fetch headers: this takes those of the node that runs it.
//
// The library is taken from a checkout of netserver around this folder, from
// NETSERVER_LIBRARY_DIR, or from where pkg-config finds it, in this order. With --has-headers it only
// says by its exit status whether there are headers.

const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

const here = __dirname;
const root = path.join(here, '..', '..');
const output = path.join(here, 'build', 'netserver.node');
const major = process.versions.node.split('.')[0];

function fail(message) {
  console.error(`build: ${message}`);
  process.exit(1);
}

function majorOf(folder) {
  try {
    const text = fs.readFileSync(path.join(folder, 'node_version.h'), 'utf8');
    return /#define NODE_MAJOR_VERSION (\d+)/.exec(text)?.[1];
  } catch {
    return undefined;
  }
}

// The headers of this very node, or of another one of the same major version.
const own = path.join(fs.realpathSync(process.execPath), '..', '..', 'include', 'node');
const folders = [...new Set([own, '/usr/include/node'])];

function findHeaders() {
  return folders.find((folder) => majorOf(folder) === major);
}

function headers() {
  const found = findHeaders();
  if (found !== undefined) return found;
  const others = folders.filter((folder) => majorOf(folder) !== undefined);
  return fail(
    `no headers of Node ${major} (${process.execPath}) in ${folders.join(', ')}` +
      others.map((folder) => `; ${folder} has those of Node ${majorOf(folder)}`).join('') +
      '. Debian has them in libnode-dev.',
  );
}

function pkgConfig(...options) {
  try {
    return execFileSync('pkg-config', [...options, 'netserver'], { encoding: 'utf8' }).trim();
  } catch {
    return undefined;
  }
}

function inFolder(folder, include) {
  const archive = path.join(folder, 'libnetserver.a');
  if (!fs.existsSync(archive)) return undefined;
  const libs = path.join(folder, 'libnetserver.libs');
  const more = fs.existsSync(libs) ? fs.readFileSync(libs, 'utf8') : '-lutil -lrt -lm -ldl';
  return { archive, include, flags: more.trim().split(/\s+/) };
}

function library() {
  const include = path.join(root, 'include');
  const target = process.env.CARGO_TARGET_DIR ?? 'target';
  const folder =
    process.env.NETSERVER_LIBRARY_DIR ?? path.join(path.resolve(root, target), 'release');
  const built = fs.existsSync(path.join(include, 'netserver.h'))
    ? inFolder(folder, include)
    : undefined;
  if (built !== undefined) return built;
  const archive = pkgConfig('--variable=archive');
  if (archive === undefined) {
    return fail('no netserver: run "make build" in its checkout, or install it for pkg-config');
  }
  return {
    archive,
    include: pkgConfig('--variable=includedir'),
    flags: pkgConfig('--libs', '--static')
      .split(/\s+/)
      .filter((flag) => flag !== '-lnetserver' && !flag.startsWith('-L')),
  };
}

function filesOf(folder) {
  return fs.readdirSync(folder).map((name) => path.join(folder, name));
}

function isUpToDate(inputs) {
  if (!fs.existsSync(output)) return false;
  const built = fs.statSync(output).mtimeMs;
  return inputs.every((file) => fs.statSync(file).mtimeMs <= built);
}

if (process.argv[2] === '--has-headers') process.exit(findHeaders() === undefined ? 1 : 0);

const nodeHeaders = headers();
const { archive, include, flags } = library();
const sources = filesOf(path.join(here, 'src'));
const header = path.join(include, 'netserver.h');
const version = path.join(nodeHeaders, 'node_version.h');

if (!isUpToDate([...sources, archive, header, version, __filename])) {
  fs.mkdirSync(path.dirname(output), { recursive: true });
  const temporary = `${output}.${process.pid}`;
  const args = [
    '-std=gnu11', '-O2', '-g', '-fPIC', '-fvisibility=hidden', '-Wall', '-Wextra',
    '-Wpedantic', '-Wshadow', '-shared', `-I${include}`, '-isystem', nodeHeaders, '-o', temporary,
    ...sources.filter((file) => file.endsWith('.c')),
    archive, ...flags, '-Wl,--exclude-libs,ALL', '-Wl,-Bsymbolic', '-Wl,--gc-sections', '-s',
  ];
  try {
    execFileSync(process.env.CC ?? 'cc', args, { stdio: 'inherit' });
  } catch (error) {
    fail(error.code === 'ENOENT' ? 'no C compiler "cc"' : 'the C compiler failed');
  }
  fs.renameSync(temporary, output); // one that is loaded stays as it is
}
