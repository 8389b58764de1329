/* workers/model/inventory_internal.h: shared by inventory.c (looking at a folder) and inventory_json.c (its
 * record). */
#ifndef WORKERS_MODEL_INVENTORY_INTERNAL_H
#define WORKERS_MODEL_INVENTORY_INTERNAL_H

#include "workers/model/inventory.h"

/* Fills bytes and mtime_ns; *ret_fd: the open file, the caller closes it. */
bool inventory_stat_file(int folder_fd, struct inventory_file *file, int *ret_fd,
                         struct error *error) MUST_USE;
/* sha256 of file->bytes bytes. */
bool inventory_hash_file(int fd, const struct inventory_file *file, const struct cancel *cancel,
                         char ret_hex[65], struct error *error) MUST_USE;

#endif
