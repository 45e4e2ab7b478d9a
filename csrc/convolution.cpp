// Dynamic-K convolutions routed by map on a CPU (docs/definitions.md, "Dynamic-K"), without the B*O*C*H*W products.
//
// Forward: votes.h finds which channels each output of an image routes; then the routed filters alone are convolved. Backward: the gradients
// of the routed filters and of the inputs that they see. Where a number is not finite, or a sum could overflow, the call returns
// NOT_SERVED, and the caller computes it another way.

#include <atomic>
#include <cstdint>
#include <limits>

#include "convolution.h"
#include "gradients.h"
#include "location.h"
#include "votes.h"

namespace {

using namespace maps;
enum Outcome { DONE = 0, OUT_OF_MEMORY = 1, NOT_SERVED = 2 };

// Calls work(part, first, last) for parts of the images' channels.
template <typename Work> void split_channels(const Convolution& conv, int64_t images, Work work) {
    split(images * conv.C(), conv.threads, work);
}

// Whether sums stay finite; NaN does not.
bool sums_stay_finite(const Convolution& conv, double x_peak, double w_peak) {
    const auto terms = static_cast<double>(conv.T() * std::max(conv.L(), conv.I));
    return x_peak * w_peak * terms <= static_cast<double>(std::numeric_limits<float>::max()) / 4;
}

// The routed channels of some images.
template <bool exactly> class Vote {
public:
    Vote(const Convolution& conv, float w_peak, int64_t images)
        : conv(conv), w_peak(w_peak), sums(conv, images), found(conv.threads), of(images * conv.O) {}

    // Writes them, (images, O, kept), for images from b on; false if a number is not finite.
    bool find(int64_t b, int64_t images, int64_t kept, int64_t* index) {
        if (!add_up(b, images)) return false;
        look_for_candidates(images);
        if (!exactly) count_votes(b, images);
        split(images * conv.O, conv.threads, [&](int64_t, int64_t first, int64_t last) {
            for (int64_t n = first; n < last; n++) choose(of[n], kept, index + n * kept);
        });
        return true;
    }

private:
    struct Range {
        int64_t part, first, count;
    };

    const Convolution& conv;
    const float w_peak;
    Sums sums;
    std::vector<std::vector<Candidate>> found;  // by each thread
    std::vector<Range> of;                      // (images, O): which of them

    bool add_up(int64_t b, int64_t images) {
        std::atomic<bool> finite{true};
        split_channels(conv, images, [&](int64_t, int64_t first, int64_t last) {
            Plane plane(conv);
            Patches patches(conv, conv.rows_at_a_time());
            for (int64_t n = first; n < last; n++) {
                const float* channel = conv.channel(b, n);
                const float peak = largest_magnitude(channel, conv.H * conv.W);
                if (!sums_stay_finite(conv, peak, w_peak)) finite = false;
                if (!finite) return;
                plane.read(channel, to_one(peak));
                sums.find(n / conv.C(), n % conv.C(), to_one(peak), plane, patches);
            }
        });
        return finite;
    }

    void look_for_candidates(int64_t images) {
        const int64_t per_group = conv.per_group(), blocks = (per_group + BLOCK - 1) / BLOCK;
        split(conv.groups * blocks, conv.threads, [&](int64_t part, int64_t first, int64_t last) {
            Bounds<exactly> bounds(conv, sums, to_one(w_peak), images);
            found[part].clear();
            for (int64_t n = first; n < last; n++) {
                const int64_t o = n / blocks * per_group + n % blocks * BLOCK, end = n / blocks * per_group + per_group;
                bounds.find(o, std::min(o + BLOCK, end), [&](int64_t o, int64_t image, const std::vector<Candidate>& candidates) {
                    of[image * conv.O + o] = {part, static_cast<int64_t>(found[part].size()), static_cast<int64_t>(candidates.size())};
                    found[part].insert(found[part].end(), candidates.begin(), candidates.end());
                });
            }
        });
    }

    void count_votes(int64_t b, int64_t images) {
        Lists lists(images * conv.C());
        const auto each = [&](auto work) {
            for (int64_t n = 0; n < images * conv.O; n++) {
                const int64_t channels = n / conv.O * conv.C() + conv.group_of(n % conv.O) * conv.I;
                Candidate* candidates = found[of[n].part].data() + of[n].first;
                for (int64_t i = 0; i < of[n].count; i++) work(channels + candidates[i].j, n % conv.O, candidates[i].vote);
            }
        };
        each([&](int64_t channel, int64_t, float&) { lists.count(channel); });
        lists.counted();
        each([&](int64_t channel, int64_t o, float& vote) { lists.add(channel, o, &vote); });
        split_channels(conv, images, [&](int64_t, int64_t first, int64_t last) {
            Plane plane(conv);
            Patches patches(conv, conv.rows_at_a_time());
            std::vector<float> filters;
            std::vector<Part> votes;
            for (int64_t n = first; n < last; n++) {
                const int64_t count = lists.size(n);
                if (!count) continue;
                plane.read(conv.channel(b, n));
                gather_filters(conv, lists.of(n), count, n % conv.I, filters);
                votes.assign(count, all_lanes(0));
                for (int64_t row = 0; row < conv.out_h(); row += patches.rows) {
                    patches.form(plane, row);
                    add_votes(patches, patches.registers(row), filters, count, conv.T(), votes.data());
                }
                for (int64_t i = 0; i < count; i++) *lists.of(n)[i].vote = sum_of_lanes(votes[i]);
            }
        });
    }

    // The K best of an output's candidates; of equal votes the lower index. -1 stands in the places that are left.
    void choose(const Range& range, int64_t kept, int64_t* index) {
        Candidate* first = found[range.part].data() + range.first;
        Candidate* last = first + range.count;
        if (!exactly) last = std::remove_if(first, last, [](const Candidate& each) { return !(each.vote > 0); });
        const int64_t count = std::min<int64_t>(kept, last - first);
        std::partial_sort(first, first + count, last, [](const Candidate& a, const Candidate& b) {
            return a.vote > b.vote || (a.vote == b.vote && a.j < b.j);
        });
        for (int64_t k = 0; k < kept; k++) index[k] = k < count ? first[k].j : -1;
    }
};

template <bool exactly> bool vote(const Convolution& conv, int64_t kept, int64_t* index) {
    std::vector<float> peaks(conv.threads, 0);
    const int64_t size = conv.I * conv.T();
    split(conv.O, conv.threads, [&](int64_t part, int64_t first, int64_t last) {
        peaks[part] = largest_magnitude(conv.w + first * size, (last - first) * size);
    });
    const float w_peak = largest_magnitude(peaks.data(), static_cast<int64_t>(peaks.size()));
    if (!sums_stay_finite(conv, 0, w_peak)) return false;
    const int64_t together = std::min(std::min(conv.B, IMAGES), std::max<int64_t>(1, PAIRS / (conv.O * conv.I)));
    Vote<exactly> votes(conv, w_peak, together);
    for (int64_t b = 0; b < conv.B; b += together)
        if (!votes.find(b, std::min(together, conv.B - b), kept, index + b * conv.O * kept)) return false;
    return true;
}

// For each channel of each image, the outputs that route it.
Lists routed(const Convolution& conv, int64_t kept, const int64_t* index) {
    Lists lists(conv.B * conv.C());
    const auto each = [&](auto work) {
        for (int64_t n = 0; n < conv.B * conv.O; n++)
            for (int64_t k = 0; k < kept && index[n * kept + k] >= 0; k++)
                work(n / conv.O * conv.C() + conv.group_of(n % conv.O) * conv.I + index[n * kept + k], n % conv.O);
    };
    each([&](int64_t channel, int64_t) { lists.count(channel); });
    lists.counted();
    each([&](int64_t channel, int64_t o) { lists.add(channel, o, nullptr); });
    return lists;
}

// The outputs (B, O, L), with the bias (O,) unless it is null: some rows of one image at a time.
void convolve(const Convolution& conv, const Lists& lists, const float* bias, float* y) {
    const int64_t rows = conv.rows_at_a_time((conv.threads + conv.B - 1) / conv.B), chunks = (conv.out_h() + rows - 1) / rows;
    split(conv.B * chunks, conv.threads, [&](int64_t, int64_t first, int64_t last) {
        Plane plane(conv);
        Patches patches(conv, rows);
        std::vector<float> filters, sums(conv.per_group() * patches.stride);
        for (int64_t n = first; n < last; n++)
            for (int64_t group = 0; group < conv.groups; group++) {
                const int64_t b = n / chunks, row = n % chunks * rows, registers = patches.registers(row), o = group * conv.per_group();
                for (int64_t i = 0; i < conv.per_group(); i++)
                    std::fill_n(&sums[i * patches.stride], registers * WIDTH, bias ? bias[o + i] : 0);
                for (int64_t j = 0; j < conv.I; j++) {
                    const int64_t c = b * conv.C() + group * conv.I + j, count = lists.size(c);
                    if (!count) continue;
                    const Lists::Entry* list = lists.of(c);
                    plane.read_for(conv.channel(0, c), row, rows);
                    patches.form(plane, row);
                    gather_filters(conv, list, count, j, filters);
                    in_steps<ACROSS>(registers, [&](int64_t v, auto across) INLINED {
                        constexpr int wide = across();
                        in_steps<TOGETHER>(count, [&](int64_t i, auto outputs) INLINED {
                            constexpr int few = outputs();
                            Products<outputs(), across()> products;
                            float* at[outputs()];
                            WRITTEN_OUT for (int m = 0; m < few; m++) {
                                at[m] = &sums[(list[i + m].o - o) * patches.stride] + v * WIDTH;
                                WRITTEN_OUT for (int a = 0; a < wide; a++) products.of[m][a] = load_part(at[m] + a * WIDTH);
                            }
                            products.add(&filters[i * conv.T()], conv.T(), patches.at(0) + v * WIDTH, patches.stride, conv.T());
                            WRITTEN_OUT for (int m = 0; m < few; m++)
                                WRITTEN_OUT for (int a = 0; a < wide; a++) store_part(products.of[m][a], at[m] + a * WIDTH);
                        });
                    });
                }
                for (int64_t i = 0; i < conv.per_group(); i++)
                    std::memcpy(y + (b * conv.O + o + i) * conv.L() + row * conv.out_w(), &sums[i * patches.stride],
                                patches.locations(row) * sizeof(float));
            }
    });
}

// The gradients of the outputs that route a channel of an image by map.
bool copy_gradients(const Convolution& conv, const float* gy, const Lists& lists, Gradients& gradients, int64_t b, int64_t c, int64_t row) {
    const int64_t count = lists.size(b * conv.C() + c), locations = gradients.patches.locations(row);
    gradients.list.assign(lists.of(b * conv.C() + c), lists.of(b * conv.C() + c) + count);
    for (int64_t n = 0; n < count; n++) {
        float* to = &gradients.rows[n * gradients.patches.stride];
        std::memcpy(to, gy + (b * conv.O + gradients.list[n].o) * conv.L() + row * conv.out_w(), locations * sizeof(float));
        store_part(all_lanes(0), to + locations);
    }
    return count > 0;
}

// Calls add(gradients, image, channel) for all of them; each thread has gradients of its own, and channels of its own.
template <typename Add> void add_gradients(const Convolution& conv, float* gx, float* gw, Add add) {
    const int64_t size = conv.I * conv.T();
    if (gw)
        split(conv.O, conv.threads, [&](int64_t, int64_t first, int64_t last) { std::fill(gw + first * size, gw + last * size, 0.0f); });
    split(conv.C(), conv.threads, [&](int64_t, int64_t first, int64_t last) {
        Gradients gradients(conv, gx, gw);
        for (int64_t b = 0; b < conv.B; b++)
            for (int64_t c = first; c < last; c++) add(gradients, b, c);
    });
}

// Whether all sums of a call stay finite.
bool stays_finite(const Convolution& conv) {
    const auto most = [&](const float* values, int64_t count) {
        std::vector<float> peaks(conv.threads, 0);
        split(count, conv.threads, [&](int64_t part, int64_t first, int64_t last) {
            peaks[part] = largest_magnitude(values + first, last - first);
        });
        return largest_magnitude(peaks.data(), conv.threads);
    };
    return sums_stay_finite(conv, most(conv.x, conv.B * conv.C() * conv.H * conv.W), most(conv.w, conv.O * conv.I * conv.T()));
}

Convolution described(const float* x, const float* w, const uint8_t* mask, const int64_t* n, int exactly, int64_t threads) {
    Convolution conv{x, w, mask, n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9], n[10], n[11], n[12], n[13], n[14], exactly != 0, threads};
    if (conv.B * conv.O * conv.I * conv.T() * conv.L() < SMALL) conv.threads = 1;
    return conv;
}

}  // namespace

// All arrays are dense: x (B, groups * I, H, W), w (O, I, kh, kw), mask (O, I), y and gy (B, O, H', W'), index (B, O, min(K, I)), gx and gw as
// x and w. These may be null: mask and bias; gx and gw, if they are not wanted. `numbers` are those of `Convolution`, B to K.
#pragma GCC visibility push(default)
extern "C" {

int dynamick_maps_forward(const float* x, const float* w, const uint8_t* mask, const int64_t* numbers, int exactly, int64_t threads,
                          const float* bias, float* y, int64_t* index) {
    try {
        const Convolution conv = described(x, w, mask, numbers, exactly, threads);
        const int64_t kept = std::min(conv.K, conv.I);
        if (!(exactly ? vote<true>(conv, kept, index) : vote<false>(conv, kept, index))) return NOT_SERVED;
        convolve(conv, routed(conv, kept, index), bias, y);
        return DONE;
    } catch (...) {
        return OUT_OF_MEMORY;
    }
}

int dynamick_maps_backward(const float* x, const float* w, const uint8_t* mask, const int64_t* numbers, int exactly, int64_t threads,
                           const float* gy, const int64_t* index, float* gx, float* gw) {
    try {
        const Convolution conv = described(x, w, mask, numbers, exactly, threads);
        const Lists lists = routed(conv, std::min(conv.K, conv.I), index);
        add_gradients(conv, gx, gw, [&](Gradients& gradients, int64_t b, int64_t c) {
            if (!lists.size(b * conv.C() + c)) return gradients.add_nothing(b, c);
            gradients.add(b, c, [&](int64_t row) { return copy_gradients(conv, gy, lists, gradients, b, c, row); });
        });
        return DONE;
    } catch (...) {
        return OUT_OF_MEMORY;
    }
}

int dynamick_locations_forward(const float* x, const float* w, const uint8_t* mask, const int64_t* numbers, int exactly, int64_t threads,
                               const float* bias, float* y, float* left_out) {
    try {
        Convolution conv = described(x, w, mask, numbers, exactly, threads);
        conv.K = std::min(conv.K, conv.I);
        if (conv.K > MOST_SORTED || !stays_finite(conv)) return NOT_SERVED;
        route_locations(conv, bias, y, left_out);
        return DONE;
    } catch (...) {
        return OUT_OF_MEMORY;
    }
}

int dynamick_locations_backward(const float* x, const float* w, const uint8_t* mask, const int64_t* numbers, int exactly, int64_t threads,
                                const float* gy, const float* left_out, float* gx, float* gw) {
    try {
        Convolution conv = described(x, w, mask, numbers, exactly, threads);
        conv.K = std::min(conv.K, conv.I);
        if (conv.K > MOST_SORTED || !stays_finite(conv)) return NOT_SERVED;
        const Ties ties(conv, left_out);
        const Routed routed(conv, gy, left_out, ties);
        add_gradients(conv, gx, gw, [&](Gradients& gradients, int64_t b, int64_t c) {
            gradients.add(b, c, [&](int64_t row) { return routed.find(gradients, b, c, row); });
        });
        return DONE;
    } catch (...) {
        return OUT_OF_MEMORY;
    }
}

}  // extern "C"
#pragma GCC visibility pop
