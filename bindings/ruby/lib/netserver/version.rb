# frozen_string_literal: true

module Netserver
  # The version of the binding, and of the library that it is made for.
  VERSION = "0.1.0"
end
