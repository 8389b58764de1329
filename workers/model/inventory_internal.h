/* workers/model/inventory_internal.h: shared by inventory.c (looking at a folder), inventory_names.c (one spelling for all
 * names) and inventory_json.c (the record). */
#ifndef WORKERS_MODEL_INVENTORY_INTERNAL_H
#define WORKERS_MODEL_INVENTORY_INTERNAL_H

#include "workers/model/inventory.h"

/* Fills bytes and mtime_ns; *ret_fd: the open file, the caller closes it. */
bool inventory_stat_file(int folder_fd, struct inventory_file *file, int *ret_fd,
                         struct error *error) MUST_USE;
/* sha256 of file->bytes bytes. */
bool inventory_hash_file(int fd, const struct inventory_file *file, const struct cancel *cancel,
                         char ret_hex[65], struct error *error) MUST_USE;

/* files[file] is GGUF: fills config_json, config and tensors. */
bool inventory_read_gguf(struct inventory *inventory, int folder_fd, size_t file,
                         struct error_list *faults) MUST_USE;
void inventory_sort_tensors(struct inventory *inventory); /* by name */
/* Finds out which prefix the names have (config.prefix). */
void inventory_choose_prefix(struct inventory *inventory);
/* Gives every tensor its canonical name and takes fused experts apart into one tensor each, then chooses the prefix. Tensors of
 * the same name can come of it only where a file holds one tensor in two spellings: the second is dropped. */
void inventory_settle_names(struct inventory *inventory);

#endif
