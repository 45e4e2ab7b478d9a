// Work in parts. It runs on PyTorch's own threads if its OpenMP library is known: two pools of threads would compete for the cores.
#pragma once

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <cstdint>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

// What compilers call for `#pragma omp parallel`: it runs function(data) on that many threads of the library's pool.
using Parallel = void (*)(void (*function)(void*), void* data, unsigned threads, unsigned flags);
inline Parallel openmp = nullptr;

// While it lives, its thread does not round subnormal numbers to 0, even if the caller has asked for that
// (torch.set_flush_denormal). Comparisons with TINY need it.
class Subnormals {
public:
    Subnormals() {
        std::fegetenv(&before);
        std::fesetenv(FE_DFL_ENV);
    }
    ~Subnormals() { std::fesetenv(&before); }
    Subnormals(const Subnormals&) = delete;
    Subnormals& operator=(const Subnormals&) = delete;

private:
    std::fenv_t before;
};

// Runs work(part, first, last) on parts of [0, count). The same number of threads gives the same parts. The calling thread always
// takes the first part: with two threads, each then finds in its cache what it wrote before.
template <typename Work> void split(int64_t count, int64_t threads, Work work) {
    threads = std::max<int64_t>(1, std::min(threads, count));
    std::vector<std::exception_ptr> wrong(threads);
    std::atomic<int64_t> next{1};
    const auto caller = std::this_thread::get_id();
    auto take = [&] {
        const Subnormals apart;
        for (int64_t part = std::this_thread::get_id() == caller ? 0 : next++; part < threads; part = next++) try {
                work(part, count * part / threads, count * (part + 1) / threads);
            } catch (...) {
                wrong[part] = std::current_exception();
            }
    };
    if (threads == 1) {
        take();
    } else if (openmp) {
        openmp([](void* taker) { (*static_cast<decltype(take)*>(taker))(); }, &take, static_cast<unsigned>(threads), 0);
    } else {
        std::vector<std::thread> others;
        others.reserve(threads);
        try {
            for (int64_t t = 1; t < threads; t++) others.emplace_back(take);
        } catch (const std::system_error&) {  // no more threads can be started: those there are take the other parts
        }
        take();
        for (auto& other : others) other.join();
    }
    for (auto& each : wrong)
        if (each) std::rethrow_exception(each);
}
