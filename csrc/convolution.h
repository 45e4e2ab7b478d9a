// What the convolutions routed by map share: the call, one channel with its padding, and what the filters see of it.
//
// A channel's patches are a matrix: a row for each tap of the filters, a column for each location. With it every stride, padding and
// dilation is the same product of small matrices. Only one channel's patches exist at a time (for each thread), and only as many
// locations as stay in the cache: some whole rows of the outputs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#include "lanes.h"
#include "order.h"

namespace maps {

#if defined(__AVX512F__)
constexpr int TOGETHER = 4;  // so many outputs are computed together, in registers
#else
constexpr int TOGETHER = 2;
#endif
constexpr int ACROSS = 4;              // for so many registers of locations
constexpr int64_t IN_CACHE = 4608;     // roughly so many numbers of patches exist at a time
constexpr int64_t FEWEST = 64;         // but at least so many locations

inline int64_t round_up(int64_t count) { return (count + WIDTH - 1) / WIDTH * WIDTH; }

// Calls work(first, number) for steps of `most`, then for what is left; `number` is known when this is compiled.
template <int most, typename Work> ALWAYS_INLINE void in_steps(int64_t count, Work work, int64_t first = 0) {
    for (; first + most <= count; first += most) work(first, std::integral_constant<int, most>{});
    if constexpr (most > 1)
        if (first < count) in_steps<most - 1>(count, work, first);
}

inline float sum_of_lanes(Part values) {
    float lane[WIDTH];
    store_part(values, lane);
    for (int half = WIDTH / 2; half; half /= 2)
        for (int n = 0; n < half; n++) lane[n] += lane[n + half];
    return lane[0];
}

struct Convolution {
    const float *x, *w;   // (B, groups * I, H, W) and (O, I, kh, kw)
    const uint8_t* mask;  // (O, I), 0 where a connection is pruned and may not be routed; or null
    int64_t B, H, W, O, I, groups, kh, kw, sh, sw, ph, pw, dh, dw, K;
    bool exactly;
    int64_t threads;

    int64_t C() const { return groups * I; }
    int64_t T() const { return kh * kw; }
    int64_t per_group() const { return O / groups; }
    int64_t group_of(int64_t o) const { return o / per_group(); }
    int64_t out_h() const { return (H + 2 * ph - dh * (kh - 1) - 1) / sh + 1; }
    int64_t out_w() const { return (W + 2 * pw - dw * (kw - 1) - 1) / sw + 1; }
    int64_t L() const { return out_h() * out_w(); }
    const float* channel(int64_t b, int64_t c) const { return x + (b * C() + c) * H * W; }
    const float* filter(int64_t o, int64_t j) const { return w + (o * I + j) * T(); }
    bool may_route(int64_t o, int64_t j) const { return !mask || mask[o * I + j]; }

    // The locations are taken by whole rows: so many at a time.
    int64_t rows_at_a_time(int64_t parts = 1) const {
        const int64_t most = std::max(FEWEST, IN_CACHE / T());
        const int64_t chunks = std::min(out_h(), std::max(parts, (L() + most - 1) / most));
        return (out_h() + chunks - 1) / chunks;
    }
};

// One channel with its padding.
class Plane {
public:
    explicit Plane(const Convolution& conv)
        : conv(conv), width(conv.W + 2 * conv.pw), values((conv.H + 2 * conv.ph) * width + WIDTH, 0) {}

    // A copy of the channel, scaled.
    void read(const float* channel, float scale) {
        for (int64_t h = 0; h < conv.H; h++)
            for (int64_t v = 0; v < conv.W; v++) at(h)[v] = channel[h * conv.W + v] * scale;
    }

    void read(const float* channel) { read_for(channel, 0, conv.out_h()); }

    // Copies only what some rows of the outputs see.
    void read_for(const float* channel, int64_t row, int64_t rows) {
        const int64_t last = (row + rows - 1) * conv.sh + conv.dh * (conv.kh - 1) - conv.ph;
        for (int64_t h = std::max<int64_t>(0, row * conv.sh - conv.ph); h <= std::min(last, conv.H - 1); h++)
            std::memcpy(at(h), channel + h * conv.W, conv.W * sizeof(float));
    }

    // Takes what was added to the plane, and sets it to 0.
    void write(float* channel) {
        for (int64_t h = 0; h < conv.H; h++) std::memcpy(channel + h * conv.W, at(h), conv.W * sizeof(float));
        std::fill(values.begin(), values.end(), 0.0f);
    }

    // What tap t of a filter sees first of an output row.
    float* seen(int64_t t, int64_t row) {
        const int64_t h = row * conv.sh + t / conv.kw * conv.dh, v = t % conv.kw * conv.dw;
        return &values[h * width + v];
    }

private:
    const Convolution& conv;
    const int64_t width;
    std::vector<float> values;  // a register may be read behind its end

    float* at(int64_t h) { return &values[(h + conv.ph) * width + conv.pw]; }
};

// The patches of a channel in some rows of the outputs: a row for each tap, padded with 0 to whole registers.
class Patches {
public:
    const int64_t rows;    // at most so many rows of the outputs at a time
    const int64_t stride;  // from one tap to the next

    Patches(const Convolution& conv, int64_t rows)
        : rows(rows), stride(round_up(rows * conv.out_w()) + WIDTH), conv(conv), values(conv.T() * stride, 0) {}

    int64_t locations(int64_t row) const { return std::min(rows, conv.out_h() - row) * conv.out_w(); }
    int64_t registers(int64_t row) const { return round_up(locations(row)) / WIDTH; }
    float* at(int64_t t) { return &values[t * stride]; }

    void form(Plane& plane, int64_t row) {
        const int64_t width = conv.out_w(), last = std::min(conv.out_h(), row + rows), count = locations(row);
        for (int64_t t = 0; t < conv.T(); t++) {
            float* to = at(t);
            for (int64_t h = row; h < last; h++, to += width) {
                const float* from = plane.seen(t, h);
                if (conv.sw == 1) {
                    // What is written too much, the next row overwrites.
                    for (int64_t v = 0; v < width; v += WIDTH) store_part(load_part(from + v), to + v);
                } else {
                    for (int64_t v = 0; v < width; v++) to[v] = from[v * conv.sw];
                }
            }
            store_part(all_lanes(0), at(t) + count);
        }
    }

    // Adds such a matrix of gradients to the plane's.
    void add_to(Plane& plane, int64_t row) {
        const int64_t width = conv.out_w(), last = std::min(conv.out_h(), row + rows);
        for (int64_t t = 0; t < conv.T(); t++) {
            const float* from = at(t);
            for (int64_t h = row; h < last; h++, from += width) {
                float* to = plane.seen(t, h);
                for (int64_t v = 0; v < width; v++) to[v * conv.sw] += from[v];
            }
        }
    }

private:
    const Convolution& conv;
    std::vector<float> values;
};

// For each channel of each image: the outputs that it serves.
class Lists {
public:
    struct Entry {
        int64_t o;
        float* vote;  // where it is wanted, or null
    };

    Lists(int64_t channels) : start(channels + 1, 0) {}

    void count(int64_t channel) { start[channel + 1]++; }

    void counted() {
        for (size_t n = 1; n < start.size(); n++) start[n] += start[n - 1];
        next.assign(start.begin(), start.end() - 1);
        entries.resize(start.back());
    }

    void add(int64_t channel, int64_t o, float* vote) { entries[next[channel]++] = {o, vote}; }
    int64_t size(int64_t channel) const { return start[channel + 1] - start[channel]; }
    const Entry* of(int64_t channel) const { return entries.data() + start[channel]; }

private:
    std::vector<int64_t> start, next;
    std::vector<Entry> entries;
};

// The filters of a list's outputs, one after the other.
inline void gather_filters(const Convolution& conv, const Lists::Entry* list, int64_t count, int64_t j, std::vector<float>& to) {
    const int64_t T = conv.T();
    to.resize(count * T);
    for (int64_t n = 0; n < count; n++) std::memcpy(&to[n * T], conv.filter(list[n].o, j), T * sizeof(float));
}

// Loops over these are written out: only then do the products stay in registers.
#define WRITTEN_OUT _Pragma("GCC unroll 8")

// Products of a few outputs at a few registers of locations.
template <int outputs, int across> struct Products {
    Part of[outputs][across];

    ALWAYS_INLINE void clear() {
        WRITTEN_OUT for (int o = 0; o < outputs; o++)
            WRITTEN_OUT for (int v = 0; v < across; v++) of[o][v] = all_lanes(0);
    }

    // Adds w (outputs, T) times the patches (T, locations); from one output's filter to the next it is so far.
    ALWAYS_INLINE void add(const float* w, int64_t apart, const float* patches, int64_t stride, int64_t T) {
        Part sums[outputs][across];
        WRITTEN_OUT for (int o = 0; o < outputs; o++)
            WRITTEN_OUT for (int v = 0; v < across; v++) sums[o][v] = of[o][v];
        for (int64_t t = 0; t < T; t++, patches += stride, w++) {
            Part x[across];
            WRITTEN_OUT for (int v = 0; v < across; v++) x[v] = load_part(patches + v * WIDTH);
            WRITTEN_OUT for (int o = 0; o < outputs; o++) {
                const Part weight = all_lanes(w[o * apart]);
                WRITTEN_OUT for (int v = 0; v < across; v++) sums[o][v] = multiply_add(weight, x[v], sums[o][v]);
            }
        }
        WRITTEN_OUT for (int o = 0; o < outputs; o++)
            WRITTEN_OUT for (int v = 0; v < across; v++) of[o][v] = sums[o][v];
    }
};

}  // namespace maps
