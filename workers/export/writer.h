/*
 * workers/export/writer.h: safetensors files. Header: 8 bytes of length, JSON padded with spaces to a
 * multiple of 8, then the tensors back to back in the order of their names. One buffer of WRITER_CHUNK_BYTES,
 * whatever the size of the model.
 */
#ifndef WORKERS_EXPORT_WRITER_H
#define WORKERS_EXPORT_WRITER_H

#include "workers/export/export.h"
#include "workers/model/source.h"

#define WRITER_CHUNK_BYTES (1u << 20)

/* Writes model.safetensors, or shards and their index. Tensors that change (another element type, another order in the file) are
 * read as canonical rows, and NaN and infinity in them are NUMERIC; the others go over byte for byte. */
bool writer_write_weights(const struct export_draft *draft, const struct inventory *inventory,
                          const struct source *source, const char *out_folder,
                          const struct export_options *options, struct error *error) MUST_USE;

#endif
