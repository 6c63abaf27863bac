# frozen_string_literal: true

require_relative "lib/netserver/version"

Gem::Specification.new do |spec|
  spec.name = "netserver"
  spec.version = Netserver::VERSION
  spec.summary = "TCP and TLS servers in your program, by the netserver library"
  spec.description = "TCP and unix sockets, TLS, limits, deadlines and timers, with blocks as handlers. " \
                     "It needs the shared library netserver."
  spec.authors = ["The netserver authors"]
  spec.licenses = ["MIT", "Apache-2.0"]
  spec.required_ruby_version = ">= 3.1"
  spec.files = Dir.chdir(__dir__) { Dir["lib/**/*.rb", "sig/*.rbs", "README.md"] }
  spec.require_paths = ["lib"]
  spec.add_dependency "ffi", "~> 1.15"
  spec.metadata["rubygems_mfa_required"] = "true"
end
