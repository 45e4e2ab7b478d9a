// Convolutions routed by location: each output of each location sums its own K largest products.
//
// Forward: the patches of all channels at a few locations stay in the cache. For some outputs together the products are formed, channel by
// channel, and each lane (a location) keeps its K + 1 largest sorted. For the backward pass only the largest product that is not routed is
// kept; NaN where it is equal to one that is. Backward: channel by channel, the products are formed again, in the same order and so with the
// same bits; where no lane routes the channel, nothing more is done. Lanes with NaN are searched first: they get their K-th product, and
// the last channel that is routed among those equal to it.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "convolution.h"
#include "gradients.h"
#include "problem.h"
#include "threads.h"

namespace maps {

constexpr int64_t MOST_SORTED = 16;       // up to this K
constexpr int64_t WIDE = 1 << 16;         // roughly so many numbers of all channels' patches exist at a time
constexpr int SIDE_BY_SIDE = 2;           // so many registers of locations are sorted together
constexpr int64_t LIKELY = 40;            // among the first LIKELY * (K + 1) channels a product probably is one of the largest so far
constexpr float UNKNOWN = std::numeric_limits<float>::quiet_NaN();

// The patches of all channels of a group in some rows of an image.
class AllPatches {
public:
    AllPatches(const Convolution& conv)
        : rows(rows_of(conv)), conv(conv), plane(conv), one(conv, rows), values(conv.I * conv.T() * one.stride) {}

    const int64_t rows;

    void form(int64_t b, int64_t group, int64_t row) {
        for (int64_t j = 0; j < conv.I; j++) {
            plane.read_for(conv.channel(b, group * conv.I + j), row, rows);
            one.form(plane, row);
            std::memcpy(&values[j * conv.T() * one.stride], one.at(0), conv.T() * one.stride * sizeof(float));
        }
    }

    const float* of(int64_t j) const { return &values[j * conv.T() * one.stride]; }
    int64_t stride() const { return one.stride; }
    int64_t locations(int64_t row) const { return one.locations(row); }
    int64_t registers(int64_t row) const { return one.registers(row); }

private:
    const Convolution& conv;
    Plane plane;
    Patches one;
    std::vector<float> values;

    static int64_t rows_of(const Convolution& conv) {
        const int64_t most = std::max<int64_t>(2 * WIDTH, WIDE / (conv.I * conv.T()));
        const int64_t rows = std::max<int64_t>(1, std::min(most / conv.out_w(), conv.out_h()));
        const int64_t chunks = (conv.out_h() + rows - 1) / rows;
        return (conv.out_h() + chunks - 1) / chunks;
    }
};

// Whole numbers in the order of the products, which processors compare faster.
inline Whole key(Part product, bool exactly) {
    const Whole bits = (Whole)(exactly ? product + all_lanes(0) : product);
    return exactly ? bits ^ ((bits >> 31) & 0x7fffffff) : bits;
}
inline Part product_of(Whole key, bool exactly) { return (Part)(exactly ? key ^ ((key >> 31) & 0x7fffffff) : key); }

// The K + 1 largest products of some outputs at some registers of locations, the largest first.
template <int outputs, int across> class Largest {
public:
    Largest(const Convolution& conv, const AllPatches& patches, int64_t o, int64_t v) : conv(conv) {
        const int64_t K = conv.K, apart = conv.I * conv.T(), likely = LIKELY * (K + 1);
        for (auto& output : keys)
            for (auto& lanes : output) std::fill_n(lanes, K + 1, key(all_lanes(floor_of(conv.exactly)), conv.exactly));
        for (int64_t j = 0; j < conv.I; j++) {
            Products<outputs, across> products;
            products.clear();
            products.add(conv.filter(o, j), apart, patches.of(j) + v * WIDTH, patches.stride(), conv.T());
            WRITTEN_OUT for (int n = 0; n < outputs; n++) {
                if (!conv.may_route(o + n, j)) continue;
                WRITTEN_OUT for (int a = 0; a < across; a++) {
                    const Whole product = key(products.of[n][a], conv.exactly);
                    if (j < likely || any(above_whole(product, keys[n][a][K]))) sift(keys[n][a], product, K);
                }
            }
        }
    }

    Part at(int n, int a, int64_t k) const { return product_of(keys[n][a][k], conv.exactly); }

private:
    const Convolution& conv;
    Whole keys[outputs][across][MOST_SORTED + 1];

    static PartMask above_whole(Whole a, Whole b) {
#if defined(__AVX512F__)
        return _mm512_cmpgt_epi32_mask((__m512i)a, (__m512i)b);
#else
        return (PartMask)(a > b);
#endif
    }

    ALWAYS_INLINE static void sift(Whole* sorted, Whole product, int64_t K) {
        for (int64_t k = 0; k <= K; k++) {
            const Whole kept = larger(product, sorted[k]);
            product = smaller(product, sorted[k]);
            sorted[k] = kept;
        }
    }
};

// Writes a register of results; only so many of its lanes.
inline void write(Part values, float* to, int64_t lanes) { std::memcpy(to, &values, lanes * sizeof(float)); }

// The outputs with the bias (O,) unless it is null, and the largest product that each leaves out, both (B, O, L).
inline void route_locations(const Convolution& conv, const float* bias, float* y, float* left_out) {
    const AllPatches shape(conv);
    const int64_t chunks = (conv.out_h() + shape.rows - 1) / shape.rows, L = conv.L();
    const float floor = floor_of(conv.exactly);
    split(conv.B * conv.groups * chunks, conv.threads, [&](int64_t, int64_t first, int64_t last) {
        AllPatches patches(conv);
        for (int64_t n = first; n < last; n++) {
            const int64_t b = n / chunks / conv.groups, group = n / chunks % conv.groups, row = n % chunks * patches.rows;
            const int64_t locations = patches.locations(row);
            patches.form(b, group, row);
            in_steps<SIDE_BY_SIDE>(patches.registers(row), [&](int64_t v, auto across) INLINED {
                constexpr int wide = across();
                in_steps<TOGETHER>(conv.per_group(), [&](int64_t i, auto outputs) INLINED {
                    constexpr int few = outputs();
                    const int64_t o = group * conv.per_group() + i;
                    const Largest<outputs(), across()> largest(conv, patches, o, v);
                    for (int m = 0; m < outputs(); m++)
                        for (int a = 0; a < across(); a++) {
                            Part sum = all_lanes(bias ? bias[o + m] : 0);
                            for (int64_t k = 0; k < conv.K; k++) {
                                const Part product = largest.at(m, a, k);
                                sum = add_where(above(product, all_lanes(floor)), sum, product);
                            }
                            const Part beyond = largest.at(m, a, conv.K), all = all_lanes(floor);
                            const auto tied = static_cast<PartMask>(equal(largest.at(m, a, conv.K - 1), beyond) & above(beyond, all));
                            const int64_t at = (v + a) * WIDTH, lanes = std::min<int64_t>(WIDTH, locations - at);
                            const int64_t to = (b * conv.O + o + m) * L + row * conv.out_w() + at;
                            write(sum, y + to, lanes);
                            write(select(tied, all_lanes(UNKNOWN), beyond), left_out + to, lanes);
                        }
                });
            });
        }
    });
}

// Where equal products meet the K-th place: for each location of an output the K-th product, and the last channel among its equals that is
// routed. Both are empty where no location has such a tie.
struct Ties {
    std::vector<float> tau, last;

    Ties(const Convolution& conv, const float* left_out) {
        const int64_t L = conv.L(), count = conv.B * conv.O * L;
        if (std::none_of(left_out, left_out + count, [](float each) { return std::isnan(each); })) return;
        tau.assign(left_out, left_out + count);
        last.assign(count, -1);
        const AllPatches shape(conv);
        const int64_t chunks = (conv.out_h() + shape.rows - 1) / shape.rows;
        split(conv.B * conv.groups * chunks, conv.threads, [&](int64_t, int64_t first, int64_t end) {
            AllPatches patches(conv);
            for (int64_t n = first; n < end; n++) {
                const int64_t b = n / chunks / conv.groups, group = n / chunks % conv.groups, row = n % chunks * patches.rows;
                bool formed = false;
                for (int64_t i = 0; i < conv.per_group(); i++)
                    for (int64_t v = 0; v < patches.registers(row); v++) {
                        const int64_t o = group * conv.per_group() + i, at = (b * conv.O + o) * L + row * conv.out_w() + v * WIDTH;
                        const int64_t lanes = std::min<int64_t>(WIDTH, patches.locations(row) - v * WIDTH);
                        if (std::none_of(&tau[at], &tau[at] + lanes, [](float each) { return std::isnan(each); })) continue;
                        if (!formed) patches.form(b, group, row);
                        formed = true;
                        search(conv, patches, o, v, &tau[at], &last[at], lanes);
                    }
            }
        });
    }

private:
    static void search(const Convolution& conv, const AllPatches& patches, int64_t o, int64_t v, float* tau, float* last, int64_t lanes) {
        const Largest<1, 1> largest(conv, patches, o, v);
        float edges[WIDTH], product[WIDTH], wanted[WIDTH] = {};
        store_part(largest.at(0, 0, conv.K - 1), edges);
        for (int64_t k = 0; k < conv.K; k++) {
            store_part(largest.at(0, 0, k), product);
            for (int64_t n = 0; n < lanes; n++) wanted[n] += product[n] == edges[n];
        }
        bool sought[WIDTH] = {};
        for (int64_t n = 0; n < lanes; n++) {
            sought[n] = std::isnan(tau[n]);
            if (sought[n]) tau[n] = edges[n];
        }
        for (int64_t j = 0; j < conv.I; j++) {
            if (!conv.may_route(o, j)) continue;
            Products<1, 1> products;
            products.clear();
            products.add(conv.filter(o, j), 0, patches.of(j) + v * WIDTH, patches.stride(), conv.T());
            store_part(products.of[0][0], product);
            for (int64_t n = 0; n < lanes; n++)
                if (sought[n] && product[n] == edges[n] && wanted[n]-- > 0) last[n] = static_cast<float>(j);
        }
    }
};

// What each location routes, for the gradients.
class Routed {
public:
    Routed(const Convolution& conv, const float* gy, const float* left_out, const Ties& ties)
        : conv(conv), gy(gy), tau(ties.tau.empty() ? left_out : ties.tau.data()), last(ties.last.empty() ? nullptr : ties.last.data()) {}

    // Leaves a row of gradients for each output that routes the channel at some of the locations; 0 where it does not.
    bool find(Gradients& gradients, int64_t b, int64_t c, int64_t row) const {
        const int64_t T = conv.T(), j = c % conv.I, first = c / conv.I * conv.per_group(), registers = gradients.patches.registers(row);
        const int64_t stride = gradients.patches.stride, locations = gradients.patches.locations(row);
        const int64_t L = conv.L(), width = conv.out_w();
        const float *edges = tau, *latest = last, *of_y = gy;
        const Part its = all_lanes(static_cast<float>(j));
        gradients.list.clear();
        in_steps<TOGETHER>(conv.per_group(), [&](int64_t i, auto outputs) INLINED {
            constexpr int few = outputs();
            const int64_t o = first + i;
            float* rows = &gradients.rows[gradients.list.size() * stride];
            bool some[outputs()] = {};
            in_steps<ACROSS>(registers, [&](int64_t v, auto across) INLINED {
                constexpr int wide = across();
                Products<outputs(), across()> products;
                products.clear();
                products.add(conv.filter(o, j), conv.I * T, gradients.patches.at(0) + v * WIDTH, stride, T);
                WRITTEN_OUT for (int m = 0; m < few; m++)
                    WRITTEN_OUT for (int a = 0; a < wide; a++) {
                        const int64_t at = (v + a) * WIDTH, lanes = std::min<int64_t>(WIDTH, locations - at);
                        const int64_t from = (b * conv.O + o + m) * L + row * width + at;
                        const Part product = products.of[m][a], edge = read(edges + from, lanes, -LOWEST);
                        PartMask in = above(product, edge);
                        if (latest) in = static_cast<PartMask>(in | (equal(product, edge) & at_least(read(latest + from, lanes, -1), its)));
                        some[m] |= any(in);
                        store_part(select(in, read(of_y + from, lanes, 0), all_lanes(0)), rows + m * stride + at);
                    }
            });
            for (int m = 0; m < outputs(); m++) {
                if (!some[m] || !conv.may_route(o + m, j)) continue;
                float* to = &gradients.rows[gradients.list.size() * stride];
                if (to != rows + m * stride) std::memcpy(to, rows + m * stride, registers * sizeof(Part));
                gradients.list.push_back({o + m, nullptr});
            }
        });
        return !gradients.list.empty();
    }

private:
    const Convolution& conv;
    const float *gy, *tau, *last;

    static Part read(const float* from, int64_t lanes, float rest) {
        return lanes == WIDTH ? load_part(from) : load_part(from, lanes, rest);
    }
};

}  // namespace maps
