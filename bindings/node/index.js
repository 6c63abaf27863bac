'use strict';

const { addon, objectCount, textOf, Status } = require('./lib/native');
require('./lib/dispatch');
const { Server } = require('./lib/server');
const { Socket } = require('./lib/socket');
const { DetachedSocket } = require('./lib/detached');
const { SocketStream } = require('./lib/stream');
const { Tls } = require('./lib/tls');

const READ = 1;
const WRITE = 2;
const version = addon.version();

function createServer(options, connectionListener) {
  return new Server(options, connectionListener);
}

function hasFeature(name) {
  return addon.hasFeature(textOf(name, 'the name'));
}

module.exports = {
  createServer,
  Server,
  Socket,
  DetachedSocket,
  SocketStream,
  Tls,
  Status,
  READ,
  WRITE,
  version,
  hasFeature,
  objectCount,
};
