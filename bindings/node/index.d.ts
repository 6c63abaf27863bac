/// <reference types="node" />

import { EventEmitter } from 'node:events';
import { Duplex, DuplexOptions } from 'node:stream';

/** A TCP and TLS server by the netserver library. Times are in milliseconds, sizes in bytes. */

/** What failed calls throw, and what 'error' and 'failure' carry. */
export interface NetserverError extends Error {
  /** The name of the status: "NS_ERR_CLOSED". */
  code: string;
  /** The number of the status: -1004. */
  status: number;
  /** The negative number of the system's error, as in Node's own errors; absent where there is none. */
  errno?: number;
}

export type Data = string | NodeJS.ArrayBufferView;
export type Id = bigint | number;

export declare const Status: {
  readonly OK: 0;
  readonly INVALID: -1001;
  readonly STATE: -1002;
  readonly TIMEOUT: -1003;
  readonly CLOSED: -1004;
  readonly RESET: -1005;
  readonly WOULD_BLOCK: -1006;
  readonly BUFFER_FULL: -1007;
  readonly REJECTED: -1008;
  readonly DETACHED: -1009;
};

/** A watch: input, the end of the stream. */
export declare const READ: 1;
/** A watch: room for output. */
export declare const WRITE: 2;

/** The version of the library. */
export declare const version: string;
export declare function hasFeature(name: string): boolean;
/** How many objects this environment keeps for the library: for tests of programs. */
export declare function objectCount(): number;

/** A certificate chain and its key: PEM, files with PEM, or DER (`cert` is an array then). */
export interface Certificate {
  cert?: string | Buffer | Buffer[];
  key?: string | Buffer;
  certFile?: string;
  keyFile?: string;
  /** The clients that get it: "example.org", "*.example.org"; absent: all others. */
  servername?: string;
}

export interface TlsOptions extends Certificate {
  certificates?: Certificate[];
  /** Authorities, PEM: clients are asked for a certificate that one of them has signed. */
  ca?: string | Buffer;
  caFile?: string;
  /** Whether clients must show one (true). A certificate of another authority is always refused. */
  rejectUnauthorized?: boolean;
  ALPNProtocols?: string[];
  minVersion?: 'TLSv1.2' | 'TLSv1.3';
  /** Whether sessions resume by tickets (true). */
  tickets?: boolean;
  /** How many sessions are kept for clients that resume without tickets (0). */
  sessionCache?: number;
  /** As for `Tls.setTicketKeys`. */
  ticketKeys?: Uint8Array;
}

/** Certificates and what belongs to them; for any number of servers. */
export declare class Tls {
  constructor(options: TlsOptions);
  static from(options: Tls | TlsOptions): Tls;
  /**
   * Sets the keys of tickets, with which other processes resume the sessions of this one: 1 to 16
   * keys of 80 random bytes, one behind the other. The first seals tickets, each opens those that it
   * sealed, for 12 hours. At any time: to rotate, give all processes the new key as the second one,
   * then as the first. A key is as secret as the certificate's.
   */
  setTicketKeys(keys: Uint8Array): void;
}

/** What a TLS handshake agreed. */
export interface TlsInfo {
  version: 'TLSv1.2' | 'TLSv1.3';
  /** The cipher suite by its IANA name. */
  cipher: string;
  alpnProtocol: string | null;
  /** The name that the client asked for. */
  servername: string | null;
  /** Whether an earlier session was resumed. */
  resumed: boolean;
  /** The client's own certificate in DER, verified. */
  peerCertificate: Buffer | null;
  /** Its subject as text: "CN=ann,O=Example". */
  peerSubject: string | null;
}

/** Where to listen: one of `service`, `path`, `fd`, or `port` with or without `host`. */
export interface Where {
  /** 0: any free port. Without `host`: all addresses, of IPv6 too. */
  port?: number | string;
  host?: string;
  /** A unix socket; "\0name" is in the abstract namespace. */
  path?: string;
  /** As the library writes it: "5000", "127.0.0.1:0", "unix:/path", "unix:@name", "systemd". */
  service?: string;
  /** A descriptor that listens. */
  fd?: number;
}

export interface Service extends Where {
  tls?: Tls | TlsOptions;
}

/** The settings of the library, see `netserver.h`; a time of 0 is off. */
export interface Settings {
  useIpv6?: boolean;
  reusePort?: boolean;
  /** Permissions of the file of a unix socket (0o600). */
  unixMode?: number;
  maxConnections?: number;
  /** Connections that one address may have open (0: any number). */
  maxPerAddress?: number;
  /** Connections a second that one address may open (0: any number). */
  acceptRatePerAddress?: number;
  /** How many of them it may open at once (0: as many as a second has). */
  acceptBurstPerAddress?: number;
  /** The bits that are one address. */
  ipv4Prefix?: number;
  ipv6Prefix?: number;
  backlog?: number;
  handshakeTimeout?: number;
  maxHandshakes?: number;
  idleTimeout?: number;
  writeTimeout?: number;
  lingerTimeout?: number;
  drainTimeout?: number;
  keepAlive?: number;
  noDelay?: boolean;
  /** Queued bytes above which a connection is not read (262144). */
  highWaterMark?: number;
  lowWaterMark?: number;
  /** Queued bytes that write() does not pass: it throws NS_ERR_BUFFER_FULL (16777216). */
  sendLimit?: number;
  /** The same for all connections of the server together (0: no bound). */
  sendLimitTotal?: number;
}

/** A connection of the shutdown port. */
export interface ShutdownPeer {
  /** What has come; null at the end; undefined where nothing has come yet. */
  receive(): Buffer | null | undefined;
  send(data: Data): boolean;
}

export interface ServerOptions extends Service, Settings {
  /** Further services of the same server, each with TLS of its own or none. */
  services?: Service[];
  /** A connection to this port stops the server. */
  shutdownPort?: number | string;
  /** Returns whether to stop; undefined: it waits for more of this peer. */
  onShutdown?(peer: ShutdownPeer): boolean | undefined;
  /**
   * Gets what a listener or a callback has thrown, the very object; the connection then closes.
   * Absent: it goes to 'uncaughtException'.
   */
  onException?(error: unknown, socket: Socket | undefined): void;
  /** Whether a socket stays open for writing after 'end' (false). */
  allowHalfOpen?: boolean;
  /** Whether sockets begin paused (false). */
  pauseOnConnect?: boolean;
  /** Queued bytes from which on write() returns false (65536). */
  writableHighWaterMark?: number;
}

export interface Address {
  address: string;
  family: 'IPv4' | 'IPv6';
  port: number;
}

export interface PeerCredentials {
  pid: number;
  uid: number;
  gid: number;
}

export type CloseReason =
  | 'handler' | 'peer' | 'reset' | 'idle' | 'timer' | 'write-timeout' | 'error' | 'abort' | 'stop'
  | 'cut' | 'rejected' | 'handshake' | 'connect' | 'proxy' | 'limit' | 'detached';

interface SocketEvents {
  data: [data: Buffer];
  /** The peer has ended its stream. */
  end: [];
  drain: [];
  timeout: [];
  /** TLS is there after starttls(). */
  secure: [];
  /** An outgoing connection is there. */
  connect: [];
  /** After server.wake(), and at other times. */
  wake: [];
  finish: [];
  /** Before 'close'. It is no fault to have no listener. */
  error: [error: NetserverError];
  close: [hadError: boolean];
}

/** A connection. Its methods work in its events, and later, until 'close'. */
export declare class Socket extends EventEmitter {
  private constructor();
  /** The server; after an attach the one that has it now. */
  readonly server: Server;
  /** Never given to another connection of the server. */
  readonly id: bigint;
  /** The number of the service that it came by; -1: by none. */
  readonly service: number;
  readonly destroyed: boolean;
  readonly connecting: boolean;
  readonly readableEnded: boolean;
  readonly writableEnded: boolean;
  readonly writableLength: number;
  readonly readyState: 'opening' | 'open' | 'readOnly' | 'writeOnly' | 'closed';
  readonly bytesRead: number;
  readonly bytesWritten: number;
  readonly timeout: number;
  /** Why it closed; null while it is open. */
  readonly closeReason: CloseReason | null;
  /** null: no TLS. */
  readonly tls: TlsInfo | null;
  readonly encrypted: boolean;
  readonly alpnProtocol: string | false;
  readonly remoteAddress?: string;
  readonly remoteFamily?: 'IPv4' | 'IPv6';
  readonly remotePort?: number;
  readonly localAddress?: string;
  readonly localFamily?: 'IPv4' | 'IPv6';
  readonly localPort?: number;

  on<E extends keyof SocketEvents>(event: E, listener: (...args: SocketEvents[E]) => void): this;
  once<E extends keyof SocketEvents>(event: E, listener: (...args: SocketEvents[E]) => void): this;
  off<E extends keyof SocketEvents>(event: E, listener: (...args: SocketEvents[E]) => void): this;

  pause(): this;
  resume(): this;
  isPaused(): boolean;
  /** 'data' then has strings, whatever these declarations say. */
  setEncoding(encoding: BufferEncoding): this;

  /** Returns false where the program should wait for 'drain'. */
  write(data: Data, callback?: (error?: NetserverError) => void): boolean;
  write(data: Data, encoding?: BufferEncoding, callback?: (error?: NetserverError) => void): boolean;
  /** Sends now what this callback has written after its first write. */
  flush(): this;
  /** Ends the sending side. The callback gets an error where it has ended before. */
  end(callback?: (error?: NetserverError) => void): this;
  end(data: Data, callback?: (error?: NetserverError) => void): this;
  end(data: Data, encoding?: BufferEncoding, callback?: (error?: NetserverError) => void): this;
  /** Ends the connection in order: what was written leaves. */
  destroySoon(): this;
  /** Ends it now: in order where all has left, else by a reset. */
  destroy(error?: Error): this;
  resetAndDestroy(): this;
  /** In a 'connection' listener: refuses the connection, after what was written. */
  reject(): this;

  /** Emits 'timeout' after so long without a byte in either direction; 0: never. */
  setTimeout(ms: number, callback?: () => void): this;
  setNoDelay(noDelay?: boolean): this;
  setKeepAlive(enable?: boolean, initialDelay?: number): this;
  /** These do nothing: the server keeps the event loop alive, not its sockets. */
  ref(): this;
  unref(): this;

  address(): Address | string | {};
  /** Of the peer of a unix socket; in a listener of this socket. */
  peerCredentials(): PeerCredentials;

  /** Goes over to TLS, as its server. `ahead`: what has come behind the client's request. */
  starttls(tls: Tls | TlsOptions, ahead?: Buffer): Promise<void>;
  /** Takes the connection out of the server. */
  detach(): Promise<DetachedSocket>;
  /** A Duplex of this socket, for pipelines; the program then uses it alone. */
  stream(options?: DuplexOptions): SocketStream;
}

export declare class SocketStream extends Duplex {
  private constructor();
  readonly socket: Socket;
}

/**
 * A connection that no server has. Each call that waits takes a thread of libuv's pool
 * (UV_THREADPOOL_SIZE); those of one connection run one after another. Close it, or attach it.
 */
export declare class DetachedSocket {
  private constructor();
  readonly socket: Socket;
  /** How long a call may wait; 0: forever. */
  timeout: number;
  /** At most `size` bytes, 65536 at most; null at the end. */
  receive(size?: number): Promise<Buffer | null>;
  /** Resolves when the kernel has all of it. */
  send(data: Data): Promise<void>;
  /** Ends the sending side. */
  end(): Promise<void>;
  close(): Promise<void>;
  /** The descriptor of a connection without TLS and without buffered bytes. */
  releaseFd(): number;
}

export interface Task {
  /** Whether it was there to cancel. */
  cancel(): boolean;
}

export interface Watch extends Task {
  change(events: number): void;
}

export interface Stats {
  state: 'new' | 'starting' | 'running' | 'quiescing' | 'stopping' | 'stopped';
  port: number;
  shutdownPort: number;
  uptime: number;
  accepted: number;
  attached: number;
  adopted: number;
  open: number;
  detached: number;
  drained: number;
  cut: number;
  bytesIn: number;
  bytesOut: number;
  handlerCalls: number;
  handlerErrors: number;
  acceptErrors: number;
  handshakes: number;
  handshakeFailures: number;
  /** That listeners passed on: they are no `handlerErrors`. */
  peerResets: number;
  /** Connections closed, for each reason. */
  closed: Record<Exclude<CloseReason, 'detached'>, number>;
}

interface ServerEvents {
  connection: [socket: Socket];
  listening: [];
  close: [];
  /** It cannot listen. */
  error: [error: NetserverError];
  /** A failure without a socket: of a TLS handshake, of accepting. */
  failure: [error: NetserverError];
}

export declare class Server extends EventEmitter {
  constructor(options?: ServerOptions, connectionListener?: (socket: Socket) => void);
  constructor(connectionListener: (socket: Socket) => void);
  readonly listening: boolean;
  readonly shutdownPort: number;
  /** The open connections. */
  readonly connections: Socket[];
  onException?: ServerOptions['onException'];

  on<E extends keyof ServerEvents>(event: E, listener: (...args: ServerEvents[E]) => void): this;
  once<E extends keyof ServerEvents>(event: E, listener: (...args: ServerEvents[E]) => void): this;
  off<E extends keyof ServerEvents>(event: E, listener: (...args: ServerEvents[E]) => void): this;

  listen(port?: number, host?: string, callback?: () => void): this;
  listen(port?: number, callback?: () => void): this;
  listen(path: string, callback?: () => void): this;
  listen(options: ServerOptions, callback?: () => void): this;
  listen(callback?: () => void): this;
  /** Accepts no more, and serves on until close(). Throws NS_ERR_STATE before listen(). */
  quiesce(): this;
  /** Stops: connections end when what was written has left, after `drainTimeout` by a reset. */
  close(callback?: (error?: NetserverError) => void): this;
  /** Stops now: resets the connections. */
  destroy(): this;
  ref(): this;
  unref(): this;

  address(service?: number): Address | string | null;
  /** "127.0.0.1:5000", "unix:/path"; "" where it does not listen. */
  addressText(service?: number): string;
  getConnections(callback: (error: null, count: number) => void): this;
  /** Throws NS_ERR_STATE before listen() and after 'close'. */
  stats(): Stats;
  /** A report for people. It throws as stats() does. */
  report(): string;
  /** The counters in the format of Prometheus. It throws as stats() does. */
  metrics(): string;
  /** Has the handshakes that begin from now on use other certificates. */
  reloadTls(tls: Tls | TlsOptions, service?: number): void;

  send(id: Id, data: Data): void;
  /** Returns how many connections have accepted the data: all open ones, or those of `ids`. */
  broadcast(data: Data, ids?: Id[] | BigUint64Array): number;
  /** Returns the status of each. */
  broadcastEach(data: Data, ids: Id[] | BigUint64Array): Int32Array;
  closeConnection(id: Id): void;
  abortConnection(id: Id): void;
  /** Has the socket emit 'wake'. */
  wake(id: Id): void;
  queued(id: Id): number;
  /** Ends a direction: 0 reading, 1 writing, 2 both. */
  shutdown(id: Id, how: 0 | 1 | 2): void;
  ids(): bigint[];

  watch(fd: number, events: number, callback: (events: number) => void): Watch;
  /** Calls after `firstMs`, then every `repeatMs` (0: once). */
  timer(firstMs: number, repeatMs: number, callback: () => void): Task;
  /** Calls in the next turn of the loop. */
  post(callback: () => void): void;
  /** Makes a connection of a connected stream socket, which is the server's then. */
  adopt(fd: number): Socket;
  /** Connects to "host:port", "unix:/path", "unix:@name"; a name is resolved in this call. */
  connect(service: string, timeoutMs?: number): Socket;
  /** Takes a detached connection in; returns its socket, which has a new id. */
  attach(detached: DetachedSocket): Socket;
}

export declare function createServer(
  options: ServerOptions,
  connectionListener?: (socket: Socket) => void,
): Server;
export declare function createServer(connectionListener?: (socket: Socket) => void): Server;
