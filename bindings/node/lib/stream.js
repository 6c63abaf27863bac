'use strict';

const { Duplex } = require('node:stream');

// A Duplex over a Socket, which then belongs to it: the program uses the stream alone.
class SocketStream extends Duplex {
  constructor(socket, options) {
    super({ allowHalfOpen: socket.server.allowHalfOpen, ...options });
    this.socket = socket;
    this._drain = null; // the callback of a write that waits
    socket.pause();
    socket.on('data', (chunk) => {
      if (!this.push(chunk)) socket.pause();
    });
    socket.on('end', () => this.push(null));
    socket.on('drain', () => this._callDrain());
    socket.on('error', (error) => this.destroy(error));
    socket.on('close', () => this.destroy());
  }

  _read() {
    this.socket.resume();
  }

  _write(chunk, encoding, callback) {
    try {
      if (this.socket.write(chunk)) callback();
      else if (this.socket.destroyed) callback(new Error('the connection is closed'));
      else this._drain = callback;
    } catch (error) {
      callback(error);
    }
  }

  _callDrain() {
    const callback = this._drain;
    this._drain = null;
    callback?.();
  }

  _final(callback) {
    this.socket.end();
    callback();
  }

  _destroy(error, callback) {
    this.socket.destroy();
    callback(error);
  }
}

module.exports = { SocketStream };
