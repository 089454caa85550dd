/* Token merging on the GPU: the four steps of a layer, as C functions that queue work on a stream.
 *
 *     structsam_score     features -> how flat every cell is, and its calmest token
 *     structsam_select    scores   -> the merge plan of every window
 *     structsam_merge     features -> slots, what attention sees
 *     structsam_unmerge   slots    -> features, added to the residual
 *
 * All arrays are dense, in C order, on one device. Features lie as a map [B, H, W, C]; windows are never cut
 * out of it, nor is padding ever written: a token of a window is a row of the map, or zeros.
 *
 * Notation: B' = windows of all images, N = tokens of a window, G = cells of a window, m = tokens of a cell,
 * M = cells of a window that merge, K = N - M (m - 1) = slots of a window.
 */
#ifndef STRUCTSAM_H
#define STRUCTSAM_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A layer: its map, and how it is merged. */
typedef struct StructsamLayer {
    int32_t batch;    /* B */
    int32_t height;   /* H, in tokens */
    int32_t width;    /* W, in tokens */
    int32_t channels; /* C */
    int32_t side;     /* of a window, in tokens; the map is padded below and to the right to whole ones */
    int32_t cell;     /* s, of a cell, in tokens; divides `side` */
    int32_t merged;   /* M, from 1 to all */
    int32_t heads;    /* the energy is taken on the mean over this many heads; 1 is all channels */
} StructsamLayer;

/* Types of features. */
enum { STRUCTSAM_FLOAT = 0, STRUCTSAM_HALF = 1 };

/* What every function returns: STRUCTSAM_OK, one of these, or the cudaError_t of a launch that failed. */
enum {
    STRUCTSAM_OK = 0,
    STRUCTSAM_BAD_LAYER = -1,     /* sizes that do not fit each other, or a map of 2^31 or more tokens */
    STRUCTSAM_BAD_TYPE = -2,      /* neither STRUCTSAM_FLOAT nor STRUCTSAM_HALF */
    STRUCTSAM_BAD_CHANNELS = -3,  /* rows that are no multiple of 16 bytes */
    STRUCTSAM_BAD_ALIGNMENT = -4, /* features that do not start at a multiple of 16 bytes */
    STRUCTSAM_BAD_CELL = -5       /* a cell whose neighbourhood is larger than shared memory */
};

/* In words; never NULL. */
const char *structsam_error(int code);

/* Squared Sobel energy with replicated borders, padding 0, and what each cell makes of it.
 *
 * x       [B, H, W, C] of `type`
 * score   [B', G] minus the largest energy of the cell's tokens
 * member  [B', G] which of them has the smallest, the first of equal ones: 0 .. m - 1
 */
int structsam_score(const StructsamLayer *layer, int type, const void *x, float *score, int32_t *member,
                    void *stream);

/* The plan: cells in order of their score, the largest first, equal ones by index; the first M merge.
 *
 * score, member  as structsam_score gives them
 * slot      [B', N] of every token: merged cells have slots 0 .. M - 1, in order, all other tokens their own
 * token     [B', N] every token once, cell by cell in that order
 * position  [B', K] the token whose place each slot takes
 */
int structsam_select(const StructsamLayer *layer, const float *score, const int32_t *member, int32_t *slot,
                     int32_t *token, int32_t *position, void *stream);

/* Merged cells become their mean, summed in fp32; all other tokens are copied.
 *
 * x      [B, H, W, C] of `type`
 * token  [B', N] of structsam_select
 * slots  [B', K, C] of `type`
 */
int structsam_merge(const StructsamLayer *layer, int type, const void *x, const int32_t *token, void *slots,
                    void *stream);

/* Every token of the map gets a copy of its slot, on top of the residual.
 *
 * slots     [B', K, C] of `type`
 * slot      [B', N] of structsam_select
 * residual  [B, H, W, C] of `type`
 * sum       [B, H, W, C] of `type`; may be `residual` itself
 */
int structsam_unmerge(const StructsamLayer *layer, int type, const void *slots, const int32_t *slot,
                      const void *residual, void *sum, void *stream);

#ifdef __cplusplus
}
#endif

#endif
