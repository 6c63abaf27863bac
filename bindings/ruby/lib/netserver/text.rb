# frozen_string_literal: true

module Netserver
  # Strings to send, and what a call writes as snprintf does.
  module Text # :nodoc:
    # The bytes of strings in a row, whatever their encodings are.
    def self.join(strings)
      strings.size == 1 ? strings[0].to_s : strings.map { |string| string.to_s.b }.join
    end

    # Returns a text as a string for the library. C ends it at its first NUL, so it must have none.
    def self.for_c(text)
      string = text.to_s
      raise ArgumentError, "#{string.inspect} has a NUL" if string.include?("\0")

      string
    end

    # Yields a buffer and its length to a call that returns the length of the whole text.
    def self.read(size = 256, &call)
      bytes(size) { |buffer, length| call.call(buffer, length) + 1 }.chomp("\0").force_encoding("UTF-8")
    end

    # Yields a buffer and its length to a call that returns how long its bytes are.
    def self.bytes(size = 2048)
      loop do
        FFI::MemoryPointer.new(:char, size) do |buffer|
          length = yield buffer, size
          return buffer.get_bytes(0, length) if length <= size

          size = length
        end
      end
    end
  end
end
