# frozen_string_literal: true

require_relative "helper"
require "open3"
require "rubygems"

# The README, the gem, and the types.
class PackageTest < NetserverTest
  ROOT = File.expand_path("..", __dir__)

  def blocks
    File.read(File.join(ROOT, "README.md")).scan(/^```ruby\n(.*?)^```\n/m).flatten
  end

  def test_the_echo_of_the_readme
    echo = blocks.first.sub('"5000"', '"127.0.0.1:0"')
    assert_includes blocks.first, '"5000"'
    status, errors = program(echo) do |pid, io|
      client = TCPSocket.new("127.0.0.1", Integer(io.gets[/\Alistening on 127\.0\.0\.1:(\d+)$/, 1]))
      client.write("hello")
      assert_equal "hello", client.readpartial(10)
      client.close_write
      assert_equal "", client.read
      client.close
      Process.kill(:TERM, pid)
    end
    assert_equal [0, ""], [status.exitstatus, errors]
  end

  def test_the_other_example_of_the_readme
    example = blocks[1]
    ['"443"', '"chain.pem"', '"key.pem"', "{ |socket| … }"].each { |part| assert_includes example, part }
    example = example.sub('"443"', '"127.0.0.1:0"').sub('"chain.pem"', Certificates::SERVER.cert_file.inspect)
                     .sub('"key.pem"', Certificates::SERVER.key_file.inspect)
                     .sub("{ |socket| … }", "{ |socket| socket.recv or socket.close }")
                     .sub("server.every", "server.start\nserver.every").sub("every(1)", "every(0.01)")
    status, errors = program("#{example}\nputs server.port\nserver.run") do |pid, io|
      client = OpenSSL::SSL::SSLSocket.new(TCPSocket.new("127.0.0.1", Integer(io.gets))).connect
      assert_equal ["hello\n", "tick\n"], [client.gets, client.gets]
      client.close
      assert_equal "peer\n", io.gets
      Process.kill(:TERM, pid)
    end
    assert_equal [15, ""], [status.termsig, errors]
  end

  def test_the_readme_names_every_setting
    text = File.read(File.join(ROOT, "README.md"))
    settings = Netserver::Settings
    names = settings::TIMES + settings::COUNTS + settings::SIZES + settings::FLAGS + %i[shutdown_port tls]
    names.each { |name| assert_includes text, "`#{name}`" }
  end

  # What the types name is there. `rbs validate` checks that they make sense.
  def test_the_types_are_those_of_the_code
    names = File.read(File.join(ROOT, "sig/netserver.rbs")).scan(/^( *)(class|module|def|end|attr\w*)\b ?(self\.)?([\w?=<]*)/)
    scope = []
    methods = names.filter_map do |indent, word, on_self, name|
      scope = scope[0...indent.size / 2]
      scope[indent.size / 2] = name if %w[class module].include?(word)
      [scope.join("::"), on_self, name] if word == "def" || word.start_with?("attr")
    end
    assert_operator methods.size, :>, 100
    methods.each do |owner, on_self, name|
      object = Object.const_get(owner)
      there = on_self ? object.respond_to?(name) : object.method_defined?(name) || name == "initialize"
      assert there, "#{owner} has no method #{name}"
    end
  end

  def run_command(*command, **options)
    output, status = in_time { Open3.capture2e(*command, **options) }
    assert status.success?, output
    output
  end

  def test_the_gem_installs_and_serves
    Dir.mktmpdir do |folder|
      gem = File.join(folder, "netserver.gem")
      run_command("gem", "build", "netserver.gemspec", "--output", gem, chdir: ROOT)
      environment = { "GEM_HOME" => folder, "GEM_PATH" => [folder, *Gem.path].join(":"), "HOME" => folder }
      run_command(environment, "gem", "install", "--local", "--no-document", gem)
      source = "require 'netserver'; puts $LOADED_FEATURES.grep(/netserver/), Netserver.library_version"
      output = run_command(environment, RbConfig.ruby, "-e", source, chdir: folder)
      assert_includes output, folder
      refute_includes output, ROOT
    end
  end

  def test_a_library_that_is_not_there
    output, status = Open3.capture2e({ "NETSERVER_LIBRARY_DIR" => "/no/such/folder" }, RbConfig.ruby,
                                     "-I#{ROOT}/lib", "-e", "require 'netserver'")
    refute status.success?
    assert_includes output, "the netserver library is not installed"
  end
end
