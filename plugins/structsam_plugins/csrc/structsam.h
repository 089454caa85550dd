/* Token merging on the GPU: the four steps of a layer, as C functions that queue work on a stream.
 *
 *     structsam_score     features -> the flatness of every cell, and its token of lowest energy
 *     structsam_select    scores   -> the merge plan of every window
 *     structsam_merge     features -> slots, the input of attention
 *     structsam_unmerge   slots    -> features, added to the residual
 *
 * All arrays are dense, in C order, on one device. Features are a map [B, H, W, C]; windows are not copied and
 * padding is not stored: a token of a window is a row of the map, or zeros.
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

/* The sizes of a layer and of its merging. */
typedef struct StructsamLayer {
    int32_t batch;    /* B */
    int32_t height;   /* H, in tokens */
    int32_t width;    /* W, in tokens */
    int32_t channels; /* C */
    int32_t side;     /* rows and columns of a window, in tokens; the map is padded below and to the right */
    int32_t cell;     /* s, rows and columns of a cell, in tokens; divides `side` */
    int32_t merged;   /* M, cells of a window that merge, 1 to G */
    int32_t heads;    /* the energy is computed on the mean over this many heads; 1 uses all channels */
} StructsamLayer;

/* Types of features. */
enum { STRUCTSAM_FLOAT = 0, STRUCTSAM_HALF = 1 };

/* Result of every function: STRUCTSAM_OK, one of these, or the cudaError_t of a failed launch. */
enum {
    STRUCTSAM_OK = 0,
    STRUCTSAM_BAD_LAYER = -1,     /* inconsistent sizes, or a map of 2^31 or more tokens */
    STRUCTSAM_BAD_TYPE = -2,      /* neither STRUCTSAM_FLOAT nor STRUCTSAM_HALF */
    STRUCTSAM_BAD_CHANNELS = -3,  /* the size of a row is not a multiple of 16 bytes */
    STRUCTSAM_BAD_ALIGNMENT = -4, /* the address of features is not a multiple of 16 bytes */
    STRUCTSAM_BAD_CELL = -5       /* a cell and its border do not fit into shared memory */
};

/* The message of a result; never NULL. */
const char *structsam_error(int code);

/* Squared Sobel energy with replicated borders (0 for padding), and the score and destination of each cell.
 *
 * x       [B, H, W, C] of `type`
 * score   [B', G] minus the largest energy of the cell's tokens
 * member  [B', G] the token of the cell with the smallest energy, the first of equal ones: 0 .. m - 1
 */
int structsam_score(const StructsamLayer *layer, int type, const void *x, float *score, int32_t *member,
                    void *stream);

/* The plan: cells in descending order of their score, equal scores by index; the first M merge.
 *
 * score, member  outputs of structsam_score
 * slot      [B', N] slot of every token: merged cells have slots 0 .. M - 1, other tokens one slot each
 * token     [B', N] every token once, cell by cell in that order
 * position  [B', K] the token whose position each slot takes
 */
int structsam_select(const StructsamLayer *layer, const float *score, const int32_t *member, int32_t *slot,
                     int32_t *token, int32_t *position, void *stream);

/* Merged cells become their mean, summed in fp32; all other tokens are copied.
 *
 * x      [B, H, W, C] of `type`
 * token  [B', N] output of structsam_select
 * slots  [B', K, C] of `type`
 */
int structsam_merge(const StructsamLayer *layer, int type, const void *x, const int32_t *token, void *slots,
                    void *stream);

/* Every token of the map gets a copy of its slot, added to the residual.
 *
 * slots     [B', K, C] of `type`
 * slot      [B', N] output of structsam_select
 * residual  [B, H, W, C] of `type`
 * sum       [B, H, W, C] of `type`; may be `residual` itself
 */
int structsam_unmerge(const StructsamLayer *layer, int type, const void *slots, const int32_t *slot,
                      const void *residual, void *sum, void *stream);

#ifdef __cplusplus
}
#endif

#endif
