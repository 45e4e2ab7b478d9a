// Which channels each output routes. The vote of a channel is the sum over locations of its positive products (`at_most`), or of all.
//
// The sum of all products is the filter times the sums of what its taps see. The sum of the positive ones needs every product, so it is
// computed only where it may be among the K largest. It has two upper bounds. One adds up each tap's positive products. The other is
// half the sum of all products, and half the sum of their magnitudes; this is at most the root of L times the sum of their squares, a
// quadratic form of the filter. The sum of all products is a lower bound. A channel whose upper bound is below the K-th largest lower
// bound is not looked at any further. The bounds allow for their own rounding.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "convolution.h"
#include "problem.h"
#include "threads.h"

namespace maps {

constexpr int64_t SQUARED = 9;       // filters of more taps have no quadratic form: there it would cost too much
constexpr int64_t BLOCK = 8;         // so many outputs are bounded while the sums of a register of channels are in the cache
constexpr int64_t IMAGES = 16;       // at most so many images are voted on together,
constexpr int64_t PAIRS = 1 << 22;   // and about so many pairs of output and channel
constexpr int64_t SORTED = 16;       // up to this K the K-th largest is found by insertion
constexpr float UNDERFLOW = 1e-25f;  // squares may lose less than this by underflow

inline Part root(Part a) {
#if defined(__AVX512F__)
    return _mm512_sqrt_ps(a);
#elif defined(__AVX2__)
    return _mm256_sqrt_ps(a);
#else
    Part roots = a;
    for (int n = 0; n < WIDTH; n++) roots[n] = std::sqrt(a[n]);
    return roots;
#endif
}

// The power of 2 that brings a magnitude to between 1/2 and 1, or near to it where it is extreme.
inline float to_one(float most) {
    int exponent = 0;
    std::frexp(most, &exponent);
    return std::ldexp(1.0f, std::min(120, std::max(-120, -exponent)));
}

// What the bounds need of the channels, a register of channels at a time. For each tap: the sum of the positive inputs that it sees, that of
// the negative ones, and the root of L times that of the squares. Then the quadratic form; then the factor that undoes the scaling.
class Sums {
public:
    const int64_t forms;   // of so many products of two taps; 0: no quadratic form
    const int64_t blocks;  // of so many registers of channels, for each group
    const int64_t size;    // of so many registers of sums, for each of them

    Sums(const Convolution& conv, int64_t images)
        : forms(conv.T() <= SQUARED ? conv.T() * (conv.T() + 1) / 2 : 0), blocks(round_up(conv.I) / WIDTH),
          size(3 * conv.T() + forms + 1), conv(conv), values(images * conv.groups * blocks * size * WIDTH, 0) {}

    float* of(int64_t image, int64_t group, int64_t block) {
        return &values[((image * conv.groups + group) * blocks + block) * size * WIDTH];
    }

    // Writes the sums of a channel, of which the plane holds a scaled copy.
    void find(int64_t image, int64_t c, float scale, Plane& plane, Patches& patches) {
        const int64_t T = conv.T(), j = c % conv.I;
        const auto L = static_cast<double>(conv.L());
        std::vector<double> sums(2 * T + forms, 0);
        for (int64_t row = 0; row < conv.out_h(); row += patches.rows) {
            patches.form(plane, row);
            add(patches, patches.registers(row), sums.data());
        }
        float* lane = of(image, c / conv.I, j / WIDTH) + j % WIDTH;
        const auto put = [&](int64_t at, double value) { lane[at * WIDTH] = static_cast<float>(value); };
        for (int64_t t = 0, at = 2 * T; t < T; t++) {
            put(t, sums[t]);
            put(T + t, sums[T + t]);
            put(2 * T + t, forms ? std::sqrt(L * sums[at]) : sums[t] - sums[T + t]);
            for (int64_t u = t; forms && u < T; u++, at++) put(T + at, L * sums[at] * (u == t ? 1 : 2));
        }
        put(size - 1, 1 / scale);
    }

private:
    const Convolution& conv;
    std::vector<float> values;

    void add(Patches& patches, int64_t registers, double* sums) {
        const int64_t T = conv.T();
        const Part zero = all_lanes(0);
        for (int64_t t = 0; t < T; t++) {
            Part above = zero, below = zero;
            for (int64_t v = 0; v < registers; v++) {
                const Part x = load_part(patches.at(t) + v * WIDTH);
                above = above + larger(x, zero);
                below = below + smaller(x, zero);
            }
            sums[t] += sum_of_lanes(above);
            sums[T + t] += sum_of_lanes(below);
        }
        sums += 2 * T;
        for (int64_t t = 0; forms && t < T; sums += T - t, t++)
            in_steps<5>(T - t, [&](int64_t u, auto number) INLINED {
                constexpr int several = number();
                const float *first = patches.at(t), *others = patches.at(t + u);
                Part squares[number()];
                WRITTEN_OUT for (int n = 0; n < several; n++) squares[n] = zero;
                for (int64_t v = 0; v < registers; v++) {
                    const Part x = load_part(first + v * WIDTH);
                    WRITTEN_OUT for (int n = 0; n < several; n++)
                        squares[n] = multiply_add(x, load_part(others + n * patches.stride + v * WIDTH), squares[n]);
                }
                WRITTEN_OUT for (int n = 0; n < several; n++) sums[u + n] += sum_of_lanes(squares[n]);
            });
    }
};

// What may be routed of an output: a channel, and its vote once it is known.
struct Candidate {
    int64_t j;
    float vote;
};

// The bounds of a block of outputs' votes, and the candidates.
template <bool exactly> class Bounds {
public:
    Bounds(const Convolution& conv, Sums& sums, float w_scale, int64_t images)
        : conv(conv), sums(sums), w_scale(w_scale), images(images), stride(sums.blocks * WIDTH),
          rounding(static_cast<float>(conv.L() / WIDTH + 64 + conv.T()) * 0x1p-23f), filters(BLOCK * conv.T() * WIDTH),
          upper(BLOCK * images * stride), lower(BLOCK * images * stride), most(std::max<int64_t>(conv.K, 1)) {}

    // Calls keep(o, image, candidates) for each output from `first` on, all of one group.
    template <typename Keep> void find(int64_t first, int64_t last, Keep keep) {
        const int64_t T = conv.T(), group = conv.group_of(first);
        for (int64_t block = 0; block < sums.blocks; block++) {
            for (int64_t o = first; o < last; o++) turn(o, block, &filters[(o - first) * T * WIDTH]);
            for (int64_t image = 0; image < images; image++)
                for (int64_t o = first; o < last; o++) {
                    const int64_t at = ((o - first) * images + image) * stride + block * WIDTH;
                    bound(sums.of(image, group, block), &filters[(o - first) * T * WIDTH], &upper[at], &lower[at]);
                    for (int64_t n = 0; n < WIDTH; n++) {
                        const int64_t j = block * WIDTH + n;
                        if (exactly && (j >= conv.I || !conv.may_route(o, j))) upper[at + n] = lower[at + n] = LOWEST;
                    }
                }
        }
        for (int64_t o = first; o < last; o++)
            for (int64_t image = 0; image < images; image++) {
                const int64_t at = ((o - first) * images + image) * stride;
                const Part least = all_lanes(kth_largest(&lower[at]) - (exactly ? 0 : 4 * TINY)), floor = all_lanes(floor_of(exactly));
                candidates.clear();
                for (int64_t j = 0; j < stride; j += WIDTH) {
                    const Part its = load_part(&upper[at + j]);
                    for (uint32_t in = bits(static_cast<PartMask>(at_least(its, least) & above(its, floor))); in; in &= in - 1) {
                        const int64_t n = j + __builtin_ctz(in);
                        candidates.push_back({n, upper[at + n]});
                    }
                }
                keep(o, image, candidates);
            }
    }

private:
    const Convolution& conv;
    Sums& sums;
    const float w_scale;
    const int64_t images, stride;
    const float rounding;  // a sum is wrong by at most this part of its terms' magnitudes
    std::vector<float> filters, upper, lower, most, copy;
    std::vector<Candidate> candidates;

    // The scaled filters of an output, a register of channels for each tap; 0 for a channel that may not be routed.
    void turn(int64_t o, int64_t block, float* to) {
        const int64_t T = conv.T(), first = block * WIDTH;
        if (conv.I - first < WIDTH) std::fill_n(to, T * WIDTH, 0.0f);
        for (int64_t n = 0; n < std::min<int64_t>(WIDTH, conv.I - first); n++) {
            const float *filter = conv.filter(o, first + n), factor = conv.may_route(o, first + n) ? w_scale : 0;
            for (int64_t t = 0; t < T; t++) to[t * WIDTH + n] = filter[t] * factor;
        }
    }

    void bound(const float* sum, const float* filter, float* to_upper, float* to_lower) {
        const int64_t T = conv.T();
        const auto at = [&](int64_t n) INLINED { return load_part(sum + n * WIDTH); };
        const Part zero = all_lanes(0), one = all_lanes(1), scale = at(sums.size - 1) * all_lanes(1 / w_scale);
        Part all = zero, taps = zero, terms = zero;
        for (int64_t t = 0; t < T; t++) {
            const Part w = load_part(filter + t * WIDTH), above = w * at(t), below = w * at(T + t);
            all = all + (above + below);
            taps = taps + larger(above, below);
            terms = multiply_add(larger(w, zero - w), at(2 * T + t), terms);
        }
        if (exactly) {
            store_part(all * scale, to_upper);
            store_part(all * scale, to_lower);
            return;
        }
        const Part wrong = all_lanes(rounding), wide = one + wrong;
        Part most = taps;
        if (sums.forms) {
            Part squares = zero;
            for (int64_t t = 0, n = 3 * T; t < T; t++) {
                Part row = zero;
                for (int64_t u = t; u < T; u++, n++) row = multiply_add(load_part(filter + u * WIDTH), at(n), row);
                squares = multiply_add(load_part(filter + t * WIDTH), row, squares);
            }
            squares = larger(squares, zero) + wrong * terms * terms + all_lanes(UNDERFLOW);
            most = smaller(most, all_lanes(0.5f) * (all + wrong * terms + root(squares)));
        }
        // What cannot be above 0 is no candidate, however small the rest is.
        store_part(select(above(taps, zero), most * wide * larger(scale, all_lanes(TINY)), zero - one), to_upper);
        store_part(larger(all - wrong * terms, zero) * (one - wrong) * scale, to_lower);
    }

    // The K-th largest of an output's lower bounds; the floor if there are fewer channels.
    float kth_largest(const float* values) {
        const float floor = floor_of(exactly);
        if (conv.K >= conv.I) return floor;
        if (conv.K > SORTED) {
            copy.assign(values, values + conv.I);
            std::nth_element(copy.begin(), copy.begin() + conv.K - 1, copy.end(), std::greater<float>());
            return copy[conv.K - 1];
        }
        std::fill(most.begin(), most.end(), floor);
        float& last = most[conv.K - 1];
        for (int64_t j = 0; j < stride; j += WIDTH)
            for (uint32_t in = bits(above(load_part(values + j), all_lanes(last))); in; in &= in - 1) {
                const float value = values[j + __builtin_ctz(in)];
                if (!(value > last)) continue;
                int64_t k = conv.K - 1;
                for (; k > 0 && most[k - 1] < value; k--) most[k] = most[k - 1];
                most[k] = value;
            }
        return last;
    }
};

// Adds the positive products of some outputs to their sums, a register for each.
inline void add_votes(Patches& patches, int64_t registers, const std::vector<float>& filters, int64_t count, int64_t T, Part* sums) {
    in_steps<ACROSS>(registers, [&](int64_t v, auto across) INLINED {
        constexpr int wide = across();
        in_steps<TOGETHER>(count, [&](int64_t o, auto outputs) INLINED {
            constexpr int few = outputs();
            Products<outputs(), across()> products;
            products.clear();
            products.add(&filters[o * T], T, patches.at(0) + v * WIDTH, patches.stride, T);
            WRITTEN_OUT for (int n = 0; n < few; n++)
                WRITTEN_OUT for (int i = 0; i < wide; i++) sums[o + n] = sums[o + n] + larger(products.of[n][i], all_lanes(0));
        });
    });
}

}  // namespace maps
