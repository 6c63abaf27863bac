#!/usr/bin/env ruby
# frozen_string_literal: true

# The checker of the table of checks: ../README.md says what it answers.
require "digest"
require "netserver"
require "optparse"

$stdout.sync = true

# What the command line says.
class Options
  attr_reader :service, :settings, :gc, :handler

  def initialize(argv)
    @settings = {}
    @tls = {}
    @handler = true
    @service, *rest = parser.parse(argv)
    raise OptionParser::ParseError, "one SERVICE is needed" if @service.nil? || rest.any?
    raise OptionParser::ParseError, "--cert and --key go together" if @tls.key?(:cert) != @tls.key?(:key)

    @settings[:tls] = @tls unless @tls.empty?
  end

  private

  def parser
    OptionParser.new do |options|
      options.on("-n")
      options.on("-t THREADS", Integer)
      options.on("--cert FILE") { |file| @tls[:cert] = file }
      options.on("--key FILE") { |file| @tls[:key] = file }
      options.on("--client-ca FILE") { |file| @tls.update(client_ca: file, client_cert: :optional) }
      options.on("--alpn NAMES") { |names| @tls[:alpn] = names.split(",") }
      options.on("--shutdown-port P") { |port| @settings[:shutdown_port] = port }
      options.on("--gc") { @gc = true }
      options.on("--no-handler") { @handler = false }
    end
  end
end

# The lines of a connection, and what it is still filling.
class Session
  PIECE = "x" * 65_536

  def initialize(checker, socket)
    @checker = checker
    @socket = socket
    @input = +""
    @left = 0
  end

  # Reads what has arrived and answers it.
  def receive
    data = @socket.recv
    return @socket.close unless data

    @input << data
    answer_lines
  end

  # Sends the next pieces of a `fill`, then what waits behind it.
  def drained
    return unless @left.positive?

    fill
    answer_lines
  end

  # Answers lines that were read before.
  def woken
    answer_lines
  end

  def say(text)
    @socket.write(text, "\n")
  end

  # Begins a `fill`.
  def begin_fill(bytes)
    @left = bytes
    bytes.zero? ? say("") : fill
  end

  # Gives the connection to a thread, which answers and gives it back.
  def detach
    Thread.new(@socket.detach) { |owned| own(owned) }
    :detached
  end

  private

  def answer_lines
    while @left.zero? && (line = @input.slice!(/\A.*\n/))
      break if @checker.answer(self, @socket, line.chomp) == :detached
    end
  end

  def own(owned)
    owned.write("detached\n")
    line = @input # nobody else's until the attach
    line << owned.readpartial(4096) until line.include?("\n")
    owned.write("owned #{line.slice!(/\A.*\n/)}")
    owned.attach.wake # there may be lines that this thread has read
  rescue EOFError, Netserver::Error # the client has gone
    owned.close
  end

  # A piece or two are on their way at most: on_drain brings the next one.
  def fill
    while @left.positive? && @socket.queued < 2 * PIECE.size
      piece = PIECE.byteslice(0, @left)
      @socket.write(piece)
      @left -= piece.size
    end
    say("") if @left.zero?
  end
end

# The server and what its lines do.
class Checker
  def initialize(options)
    @options = options
    @server = Netserver::Server.new(options.service, **options.settings) { |socket| with_gc { session(socket).receive } }
    @server.on_open { |socket| with_gc { socket.data = Session.new(self, socket) } }
    @server.on_drain { |socket| with_gc { session(socket).drained } }
    @server.on_wake { |socket| with_gc { session(socket).woken } }
    @server.on_close { |socket, _| with_gc { raise @close_failure[socket.id] if @close_failure.key?(socket.id) } }
    @server.on_exception { |socket, exception| failed(socket, exception) } if options.handler
    @close_failure = {}
  end

  # Returns, raises, or has the program exit, as the lines say.
  def run
    @server.start
    puts "listening on #{@server.address}"
    nil while @ending.nil? && @server.run_once
    raise "the end of the program" if @ending == "throw"
    return if @ending

    puts "stopped"
    @server.close
  end

  def answer(session, socket, line)
    word, rest = line.split(" ", 2)
    method = "on_#{word&.tr('-', '_')}"
    return session.say("") if line.empty?
    return session.say("what?") unless respond_to?(method, true)

    send(method, session, socket, rest.to_s)
  end

  private

  def with_gc
    GC.start if @options.gc
    yield
  end

  def session(socket)
    socket.data
  end

  def failed(socket, exception)
    same = exception.equal?(@raised) ? "same" : "other"
    puts "exception: #{exception.message} #{same}" unless exception.is_a?(Netserver::ResetError)
    socket&.close
  end

  def raised(text)
    @raised = RuntimeError.new(text)
  end

  def on_echo(session, _, text) = session.say(text)
  def on_id(session, socket, _) = session.say(socket.id.to_s)
  def on_objects(session, _, _) = session.say(Netserver::Table.size.to_s)
  def on_fill(session, _, bytes) = session.begin_fill(bytes.to_i)
  def on_detach(session, _, _) = session.detach
  def on_raise(_, _, text) = raise(raised(text))
  def on_stop(_, _, _) = @server.stop

  def on_timer(session, socket, time)
    @server.after(time.to_i / 1000.0) { with_gc { session.say("fired") unless socket.closed? } }
  end

  def on_tls(session, socket, _)
    info = socket.tls
    certificate = info&.certificate && Digest::SHA256.hexdigest(info.certificate)
    session.say("version=#{info&.version || 'none'} alpn=#{info&.alpn || 'none'} certificate=#{certificate || 'none'}")
  end

  # Another thread sends; the answer, from the server's thread, follows.
  def on_send(_, socket, rest)
    id, text = rest.split(" ", 2)
    Thread.new do
      @server.connection(id.to_i).write("#{text}\n")
      socket.write("ok\n")
    rescue Netserver::Error => e
      socket.write("#{e.status_name}\n")
    end
  end

  def on_broadcast(_, _, text)
    Thread.new { @server.broadcast("#{text}\n") }
  end

  def on_raise_timer(session, _, text)
    @server.after(0) { raise raised(text) }
    session.say("ok")
  end

  def on_raise_post(session, _, text)
    @server.post { raise raised(text) }
    session.say("ok")
  end

  def on_raise_watch(session, _, text)
    reader, writer = IO.pipe
    writer.close
    watch = @server.watch(reader, :read) do
      watch.cancel
      reader.close
      raise raised(text)
    end
    session.say("ok")
  end

  def on_raise_close(_, socket, text)
    @close_failure[socket.id] = RuntimeError.new(text)
    socket.close
  end

  def on_fork(session, socket, _)
    reader, writer = IO.pipe
    child = fork do
      writer.write(name_of_failure { @server.ids })
      writer.close
      exit!(0)
    end
    writer.close
    session.say("fork #{reader.read}")
    Process.wait(child)
  end

  def name_of_failure
    yield
    "none"
  rescue Netserver::Error => e
    e.status_name
  end

  # An exit leaves a block and the program at once; the other ends are those of `run`.
  def on_end(_, _, how)
    how == "exit" ? exit(7) : @ending = how
  end
end

begin
  options = Options.new(ARGV)
rescue OptionParser::ParseError => e
  warn "checker.rb: #{e.message}"
  exit 2
end

begin
  Checker.new(options).run
rescue Netserver::Error => e
  warn "checker.rb: #{e.message}"
  exit 1
end
