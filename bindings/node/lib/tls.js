'use strict';

const {
  addon, Status, statusError, check, objectOf, arrayOf, textOf,
} = require('./native');

const MIN_VERSION = 0;
const TICKETS = 1;
const SESSION_CACHE = 2;
const VERSIONS = { 'TLSv1.2': 0x0303, 'TLSv1.3': 0x0304 };
const OPTIONS = new Set([
  'cert', 'key', 'certFile', 'keyFile', 'servername', 'certificates', 'ca', 'caFile',
  'rejectUnauthorized', 'ALPNProtocols', 'minVersion', 'tickets', 'sessionCache',
  'ticketKeys',
]);

function bytes(value) {
  return typeof value === 'string' ? Buffer.from(value) : value;
}

function textIfAny(value, what) {
  return value === undefined ? undefined : textOf(value, what);
}

// Adds one certificate: files, PEM, or DER where `cert` is an array.
function addCertificate(tls, certificate) {
  const { cert, key, certFile, keyFile } = objectOf(certificate, 'a certificate');
  const servername = textIfAny(certificate.servername, 'servername');
  if (certFile !== undefined) {
    addon.tlsAddCertFile(
      tls, servername, textOf(certFile, 'certFile'), textIfAny(keyFile, 'keyFile'));
  } else if (Array.isArray(cert)) {
    addon.tlsAddCertDer(tls, servername, cert, key);
  } else {
    addon.tlsAddCertPem(tls, servername, bytes(cert), bytes(key));
  }
}

// Certificates and what belongs to them; for any number of servers.
class Tls {
  constructor(options) {
    for (const name of Object.keys(objectOf(options, 'tls'))) {
      if (!OPTIONS.has(name)) throw statusError(Status.INVALID, `unknown TLS option "${name}"`);
    }
    const tls = addon.tlsNew();
    if (options.cert !== undefined || options.certFile !== undefined) addCertificate(tls, options);
    for (const certificate of arrayOf(options.certificates ?? [], 'certificates')) {
      addCertificate(tls, certificate);
    }
    const ca = textIfAny(options.caFile, 'caFile')
      ?? (options.ca === undefined ? undefined : Buffer.from(options.ca));
    if (ca !== undefined) addon.tlsSetClientCa(tls, ca, options.rejectUnauthorized ?? true);
    else if (options.rejectUnauthorized !== undefined) {
      throw statusError(Status.INVALID, 'rejectUnauthorized needs ca or caFile');
    }
    if (options.ALPNProtocols !== undefined) {
      const protocols = arrayOf(options.ALPNProtocols, 'ALPNProtocols');
      addon.tlsSetAlpn(tls, protocols.map((name) => textOf(name, 'a protocol')));
    }
    if (options.minVersion !== undefined) {
      addon.tlsSet(tls, MIN_VERSION, VERSIONS[options.minVersion] ?? -1);
    }
    if (options.tickets !== undefined) addon.tlsSet(tls, TICKETS, Number(options.tickets));
    if (options.sessionCache !== undefined) addon.tlsSet(tls, SESSION_CACHE, options.sessionCache);
    this._tls = tls;
    if (options.ticketKeys !== undefined) this.setTicketKeys(options.ticketKeys);
  }

  // At any time: the handshakes that begin from now on use the new keys.
  setTicketKeys(keys) {
    const status = addon.tlsSetTicketKeys(this._tls, keys);
    if (status === Status.INVALID) {
      throw statusError(status, `ticket keys are 1 to 16 times 80 bytes, not ${keys?.byteLength}`);
    }
    check(status);
  }

  static from(options) {
    return options instanceof Tls ? options : new Tls(options);
  }
}

module.exports = { Tls };
