// Gradients of a convolution's inputs and filters, a channel of one image at a time: of what the channel's outputs route.
#pragma once

#include <vector>

#include "convolution.h"

namespace maps {

// For a thread. Its `rows` are gradients of outputs, a row for each output that counts here, at some rows of the locations.
class Gradients {
public:
    Gradients(const Convolution& conv, float* gx, float* gw)
        : conv(conv), patches(conv, conv.rows_at_a_time()), rows((conv.per_group() + TOGETHER) * patches.stride), gx(gx), gw(gw), plane(conv),
          of_plane(conv), of_patches(conv, patches.rows) {}

    // Calls find(row) for some locations at a time, beginning with a row of the outputs. It fills `list` and `rows` and says whether
    // there is anything in them.
    template <typename Find> void add(int64_t b, int64_t c, Find find) {
        plane.read(conv.channel(b, c));
        for (int64_t row = 0; row < conv.out_h(); row += patches.rows) {
            patches.form(plane, row);
            if (!find(row)) continue;
            const int64_t registers = patches.registers(row);
            if (gw) add_to_filters(c % conv.I, registers);
            if (!gx) continue;
            gather_filters(conv, list.data(), static_cast<int64_t>(list.size()), c % conv.I, filters);
            find_of_patches(registers);
            of_patches.add_to(of_plane, row);
        }
        if (gx) of_plane.write(gx + (b * conv.C() + c) * conv.H * conv.W);
    }

    // No output counts here: the gradient of the inputs is 0.
    void add_nothing(int64_t b, int64_t c) {
        if (gx) std::fill_n(gx + (b * conv.C() + c) * conv.H * conv.W, conv.H * conv.W, 0.0f);
    }

    const Convolution& conv;
    Patches patches;
    std::vector<Lists::Entry> list;
    std::vector<float> rows;

private:
    float *gx, *gw;
    Plane plane, of_plane;
    Patches of_patches;
    std::vector<float> filters;

    void add_to_filters(int64_t j, int64_t registers) {
        in_steps<TOGETHER>(static_cast<int64_t>(list.size()), [&](int64_t n, auto outputs) INLINED {
            constexpr int few = outputs();
            in_steps<3>(conv.T(), [&](int64_t t, auto taps) INLINED {
                constexpr int near = taps();
                Part sums[outputs()][taps()];
                WRITTEN_OUT for (int m = 0; m < few; m++)
                    WRITTEN_OUT for (int i = 0; i < near; i++) sums[m][i] = all_lanes(0);
                for (int64_t v = 0; v < registers; v++) {
                    Part x[taps()];
                    WRITTEN_OUT for (int i = 0; i < near; i++) x[i] = load_part(patches.at(t + i) + v * WIDTH);
                    WRITTEN_OUT for (int m = 0; m < few; m++) {
                        const Part g = load_part(&rows[(n + m) * patches.stride] + v * WIDTH);
                        WRITTEN_OUT for (int i = 0; i < near; i++) sums[m][i] = multiply_add(g, x[i], sums[m][i]);
                    }
                }
                WRITTEN_OUT for (int m = 0; m < few; m++)
                    WRITTEN_OUT for (int i = 0; i < near; i++) gw[(list[n + m].o * conv.I + j) * conv.T() + t + i] += sum_of_lanes(sums[m][i]);
            });
        });
    }

    void find_of_patches(int64_t registers) {
        in_steps<ACROSS>(registers, [&](int64_t v, auto across) INLINED {
            constexpr int wide = across();
            in_steps<3>(conv.T(), [&](int64_t t, auto taps) INLINED {
                constexpr int near = taps();
                Part sums[taps()][across()];
                WRITTEN_OUT for (int i = 0; i < near; i++)
                    WRITTEN_OUT for (int a = 0; a < wide; a++) sums[i][a] = all_lanes(0);
                for (size_t n = 0; n < list.size(); n++) {
                    Part g[across()];
                    WRITTEN_OUT for (int a = 0; a < wide; a++) g[a] = load_part(&rows[n * patches.stride] + (v + a) * WIDTH);
                    WRITTEN_OUT for (int i = 0; i < near; i++) {
                        const Part w = all_lanes(filters[n * conv.T() + t + i]);
                        WRITTEN_OUT for (int a = 0; a < wide; a++) sums[i][a] = multiply_add(w, g[a], sums[i][a]);
                    }
                }
                WRITTEN_OUT for (int i = 0; i < near; i++)
                    WRITTEN_OUT for (int a = 0; a < wide; a++) store_part(sums[i][a], of_patches.at(t + i) + (v + a) * WIDTH);
            });
        });
    }
};

}  // namespace maps
