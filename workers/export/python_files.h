/* workers/export/python_files.h: the modelling files that go with results, read at build time from python/. */
#ifndef WORKERS_EXPORT_PYTHON_FILES_H
#define WORKERS_EXPORT_PYTHON_FILES_H

extern const char python_modeling_pruned[], python_configuration_decilm[], python_modeling_decilm[];

#endif
