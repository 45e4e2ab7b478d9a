// Work in parts, on PyTorch's own threads where its OpenMP library is known, so that no two pools fight for the cores.
#pragma once

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <cstdint>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

// What compilers call for `#pragma omp parallel`: runs function(data) on so many threads of the library's pool.
using Parallel = void (*)(void (*function)(void*), void* data, unsigned threads, unsigned flags);
inline Parallel openmp = nullptr;

// While it lives, its thread keeps subnormal numbers apart from 0, as comparisons with TINY need, whatever the caller has set
// (torch.set_flush_denormal).
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

// Runs work(part, first, last) on parts of [0, count): the same parts for the same number of threads. The calling thread takes the
// first, so that of two threads each finds in its own cache what it wrote before.
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
        } catch (const std::system_error&) {  // no more threads to be had: those there are take the other parts
        }
        take();
        for (auto& other : others) other.join();
    }
    for (auto& each : wrong)
        if (each) std::rethrow_exception(each);
}
