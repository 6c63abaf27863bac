# frozen_string_literal: true

require "minitest/autorun"
require "netserver"
require "openssl"
require "rbconfig"
require "socket"
require "tempfile"
require "timeout"
require "tmpdir"

# A shell that runs this in the background has it, and so the programs, ignore SIGINT.
trap("INT", "DEFAULT")

# What the tests share: servers in a thread of their own, clients, and that nothing is left behind.
class NetserverTest < Minitest::Test
  PATIENCE = 60 # seconds that anything may take; a busy machine is slow

  ECHO = ->(socket) { (data = socket.recv) ? socket.write(data) : socket.close }

  # A test that hangs fails.
  def run
    Timeout.timeout(2 * PATIENCE) { super }
  end

  # No test leaves an object for the library, a thread or a descriptor.
  def setup
    @threads = Thread.list.size
    @descriptors = descriptors
    @clients = []
  end

  def teardown
    @clients.each { |client| client.close unless client.closed? }
    return unless passed?

    soon("threads are left: #{Thread.list}") { Thread.list.size <= @threads }
    soon("objects are left: #{Netserver::Table.size}") { Netserver::Table.size.zero? }
    GC.start
    soon("descriptors are left") { descriptors <= @descriptors }
  end

  private

  def descriptors
    Dir.children("/proc/self/fd").size
  end

  # Makes a server on a free port, lets the block add to it, starts it and runs it in a thread.
  # Yields it, then stops it. Raises what ended the thread.
  def serving(handler = ECHO, service: "127.0.0.1:0", prepare: nil, **settings)
    server = Netserver::Server.new(service, **settings, &handler)
    prepare&.call(server)
    server.start
    thread = Thread.new do
      Thread.current.report_on_exception = false
      server.run
    ensure
      server.close(within: 0)
    end
    begin
      result = yield server
      server.stop
      thread.join(PATIENCE) or flunk("the server does not stop")
      result
    ensure
      stop(server, thread)
    end
  end

  def stop(server, thread)
    return unless thread.alive?

    server.stop
    thread.join(PATIENCE)
    thread.kill.join
  end

  def connect(server)
    client = TCPSocket.new("127.0.0.1", server.port)
    @clients << client
    client
  end

  # Fails with the sentence where the block is not true in time.
  def soon(sentence)
    limit = now + PATIENCE
    until yield
      flunk(sentence) if now > limit
      sleep 0.01
    end
  end

  def now
    Process.clock_gettime(Process::CLOCK_MONOTONIC)
  end

  def in_time(seconds = PATIENCE, &block)
    Timeout.timeout(seconds, &block)
  end

  # The next thing that the test's own block put into a queue.
  def take(queue)
    in_time { queue.pop }
  end

  def line(client)
    in_time { client.gets }
  end

  # All that comes until the end; a reset is :reset.
  def rest(client)
    in_time { client.read }
  rescue Errno::ECONNRESET
    :reset
  end

  def echoed(client, text)
    client.write("#{text}\n")
    assert_equal "#{text}\n", line(client)
  end

  # Runs a Ruby program with the binding. Yields its process's id and its stdout. Returns its status,
  # and what it wrote to stderr.
  def program(source)
    output, theirs = IO.pipe
    errors = Tempfile.new("stderr")
    pid = spawn(RbConfig.ruby, "-w", "-I#{File.join(__dir__, '../lib')}", "-rnetserver",
                "-e", "$stdout.sync = true\n#{source}", in: File::NULL, out: theirs, err: errors.path)
    theirs.close
    status = nil
    begin
      in_time do
        yield pid, output
        status = Process.wait2(pid)[1]
      end
    ensure
      Process.kill(:KILL, pid) && Process.wait(pid) unless status
    end
    [status, File.read(errors.path)]
  ensure
    output&.close
    errors&.close!
  end
end

# Certificates for the tests, made once.
module Certificates
  DIRECTORY = Dir.mktmpdir("netserver-test-")
  Minitest.after_run { FileUtils.remove_entry(DIRECTORY) }

  Made = Struct.new(:certificate, :key, :cert_file, :key_file)

  # A certificate of that name, self-signed or signed by another.
  def self.make(name, issuer = nil, authority: issuer.nil?)
    key = OpenSSL::PKey::EC.generate("prime256v1")
    made = Made.new(certificate(name, key, issuer, authority), key, file(name, "crt"), file(name, "key"))
    File.write(made.cert_file, made.certificate.to_pem)
    File.write(made.key_file, key.to_pem)
    made
  end

  def self.file(name, ending)
    File.join(DIRECTORY, "#{name}.#{ending}")
  end

  def self.certificate(name, key, issuer, authority)
    certificate = OpenSSL::X509::Certificate.new
    certificate.version = 2
    certificate.serial = OpenSSL::BN.rand(64)
    certificate.subject = OpenSSL::X509::Name.new([["CN", name]])
    certificate.issuer = issuer ? issuer.certificate.subject : certificate.subject
    certificate.public_key = key
    certificate.not_before = Time.now - 3600
    certificate.not_after = Time.now + 86_400
    extensions = OpenSSL::X509::ExtensionFactory.new(issuer&.certificate || certificate, certificate)
    certificate.add_extension(extensions.create_extension("basicConstraints", "CA:#{authority.to_s.upcase}", true))
    certificate.add_extension(extensions.create_extension("subjectAltName", "DNS:#{name},DNS:localhost"))
    certificate.sign(issuer ? issuer.key : key, "SHA256")
  end

  AUTHORITY = make("authority")
  SERVER = make("server", AUTHORITY)
  OTHER = make("other", AUTHORITY)
  CLIENT = make("ann", AUTHORITY)
end
