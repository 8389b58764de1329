/* workers/export/python_files.h: the modelling files that go with a heterogeneous result, read at build time
 * from python/. */
#ifndef WORKERS_EXPORT_PYTHON_FILES_H
#define WORKERS_EXPORT_PYTHON_FILES_H

extern const char python_configuration[], python_modeling[];

#endif
