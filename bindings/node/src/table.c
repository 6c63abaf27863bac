#include "addon.h"

#include <stdlib.h>

static bool grow(struct table *table) {
    uint32_t size = table->size == 0 ? 16 : table->size * 2;
    void **entries = realloc(table->entries, size * sizeof *entries);
    uint32_t *free_numbers;
    if (entries == NULL)
        return false;
    table->entries = entries;
    free_numbers = realloc(table->free_numbers, size * sizeof *free_numbers);
    if (free_numbers == NULL)
        return false;
    table->free_numbers = free_numbers;
    table->size = size;
    return true;
}

bool table_add(struct table *table, void *entry, uint32_t *number) {
    if (table->free_count > 0) {
        *number = table->free_numbers[--table->free_count];
    } else {
        if (table->used == table->size && !grow(table))
            return false;
        *number = table->used++;
    }
    table->entries[*number] = entry;
    return true;
}

void *table_get(const struct table *table, int64_t number) {
    return number >= 0 && number < table->used ? table->entries[number] : NULL;
}

void table_remove(struct table *table, uint32_t number) {
    table->entries[number] = NULL;
    table->free_numbers[table->free_count++] = number;
}

void table_free(struct table *table) {
    free(table->entries);
    free(table->free_numbers);
}
