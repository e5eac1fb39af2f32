// Threads are started for one call and joined at its end. A pool would save about 20 us per
// thread and call, but only long calls are split at all (kWorkPerThread in blocks.h), where that is
// noise; in exchange there is no state between calls: safe after fork(), under concurrent calls,
// and independent of which OpenMP runtime torch brought along.

#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "spine.h"

namespace spinalnet {

void parallel(int threads, index parts, void (*task)(const void*, index), const void* context) {
    if (threads > parts) threads = static_cast<int>(parts);
    std::atomic<index> next{0};
    // Parts are taken in any order: each writes its own outputs, so the result does not depend on
    // which thread took which.
    std::exception_ptr error;
    std::mutex error_lock;
    auto work = [&] {
        try {
            for (index part = next++; part < parts; part = next++) task(context, part);
        } catch (...) {
            const std::lock_guard<std::mutex> lock(error_lock);
            error = std::current_exception();
        }
    };
    std::vector<std::thread> helpers;
    try {
        for (int i = 1; i < threads; ++i) helpers.emplace_back(work);
    } catch (const std::system_error&) {
        // No more threads to be had: those that started, and this one, do all the work.
    }
    work();
    for (auto& helper : helpers) helper.join();
    if (error) std::rethrow_exception(error);
}

}  // namespace spinalnet
