/*
 * workers/tensor/cuda/cuda.h: the seam between the program and libpruned-cuda.so. The program links no CUDA: when a job
 * names the backend "cuda", door.c opens the shared object that lies beside the program (or in the library folder) and
 * asks its one entry for the table of operations. The shared object links no part of the program but base; what it
 * needs to know of the program's objects it asks through `struct cuda_host`.
 *
 * The shared object is built with -Dcuda=enabled; neither building it nor loading it needs a GPU.
 *
 * What is promised of numbers on a GPU (design section 4 promises more of the CPU):
 * - The same job on the same GPU model, with the same build, toolkit and driver gives the same bits: there is one stream, no
 *   atomic addition, and one algorithm of cuBLASLt for each shape of matrix. device_identity names all of these.
 * - A row's bits do not depend on what else is in the job, on its place in it or on the number of threads, as far as our
 *   kernels go: all sums have an order fixed by the row's length and its place in its own sequence. Products: the
 *   algorithm is chosen once per (dtype, n, k, strides, alignment) at a nominal number of rows, without a split of k over blocks,
 *   and used for every number of rows that the library accepts it for; each element's sum then runs over k in the algorithm's own
 *   order. cuBLASLt documents equal bits for equal calls only, so this rests on how its kernels are made, and the suite checks it.
 * - Jobs whose rows stand alone (matmul without segments) may use another algorithm than jobs with segments.
 * - Other GPUs, toolkits and drivers give other bits. fp32 products are fp32 (no TF32); bf16 ones are summed in fp32.
 */
#ifndef WORKERS_TENSOR_CUDA_CUDA_H
#define WORKERS_TENSOR_CUDA_CUDA_H

#include "workers/tensor/backend.h"

#define CUDA_LIBRARY "libpruned-cuda.so"
#define CUDA_ENTRY   "pruned_cuda_backend_1" /* the number changes with struct cuda_host */

struct cuda_host {
    const char *version;  /* of pruned; tables of other versions do not fit */
    size_t backend_bytes; /* sizeof(struct backend) */
    void *(*device_state)(const struct device *device);
    enum dtype (*device_dtype)(const struct device *device);
    bool (*check)(const struct exec *exec, struct error *error); /* CANCELLED */
};

/* NULL and UNSUPPORTED if the shared object is of another version. host is borrowed for good. The table's `open` says UNSUPPORTED
 * where there is no driver or no GPU. */
const struct backend *pruned_cuda_backend_1(const struct cuda_host *host, struct error *error);

#endif
