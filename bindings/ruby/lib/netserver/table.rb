# frozen_string_literal: true

module Netserver
  # The objects that the library knows. It keeps the number of an entry as user data; the entry stays
  # until the library drops it. So nothing that it may call for is collected, and no address of a
  # Ruby object leaves Ruby.
  module Table # :nodoc:
    @entries = {}

    class << self
      # Returns the number of an entry, which is in no other place of the table. It needs no lock,
      # which a signal handler could not take.
      def add(entry)
        number = entry.object_id
        @entries[number] = entry
        number
      end

      def [](number)
        @entries[number]
      end

      def remove(number)
        @entries.delete(number)
      end

      def size
        @entries.size
      end
    end

    # The one drop function.
    DROP = Runner.function(:void, :ulong) do |number|
      entry = remove(number)
      entry.ended if entry.is_a?(Socket)
    end
  end
end
