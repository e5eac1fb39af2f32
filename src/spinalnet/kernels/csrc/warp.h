// Warped images as plain arrays: every pixel of the output reads the image where a chain of
// coordinate maps sends it.
//
// Coordinates are in pixels with the centre of the first one at (0.5, 0.5). A map takes output
// coordinates to input coordinates; the last map of a chain acts on the pixels of the result, the
// first one says where the image itself is read.

#pragma once

#include "spine.h"

namespace spinalnet {

// One map for every image of a batch.
struct Map {
    const float* matrix;  // images x 3 x 3: homographies in (x, y, 1)
    const float* box;     // images x (x low, y low, x high, y high) to clamp to; null: none
    bool projective;      // whether the last row can be other than (0, 0, 1)
    bool nearest;         // go on from the centre of the pixel that was hit; none off the canvas
};

struct Warp {
    index images, channels, height, width;
    const void* source;  // images x channels x height x width, contiguous
    bool bytes;          // source holds bytes, 0 to 255; else floats
    const Map* map;
    index maps;
    // As source. If the first map is nearest, pixels are copied and keep their type. If not, they
    // are interpolated bilinearly, and are floats on the scale of 0 to 1 where source holds bytes.
    void* target;
    int threads;
};

}  // namespace spinalnet
