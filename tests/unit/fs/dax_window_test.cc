// SPDX-License-Identifier: Apache-2.0
// What the DAX window asks of the front end, in which order, and what it believes of records that
// another process left. tests/fs/dax_test.cc has what a guest sees.
#include "devices/fs/dax_window.h"

#include <cerrno>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace outrigger::fs {
namespace {

constexpr uint64_t kPages = 64;

/// Keeps what is asked until somebody answers.
class Asked final : public Frontend {
  public:
    struct Request {
        bool maps = false;
        uint64_t page = 0;
        uint64_t pages = 0;
        bool writable = false;
        OnDone done{};
    };

    void config_changed() override {}

    [[nodiscard]] bool add_shared_object(const Uuid& /*object*/, OnDone /*done*/) override {
        return false;
    }

    [[nodiscard]] bool remove_shared_object(const Uuid& /*object*/, OnDone /*done*/) override {
        return false;
    }

    [[nodiscard]] bool look_up_shared_object(const Uuid& /*object*/, OnFound /*found*/) override {
        return false;
    }

    [[nodiscard]] bool map_shared_memory(const SharedMemoryRange& range,
                                         SharedMemorySource source,
                                         OnDone on_done) override {
        EXPECT_TRUE(source.fd.valid());
        requests.push_back({.maps = true,
                            .page = range.offset / DaxWindow::page_bytes(),
                            .pages = range.bytes / DaxWindow::page_bytes(),
                            .writable = source.writable,
                            .done = std::move(on_done)});
        return !is_gone;
    }

    [[nodiscard]] bool unmap_shared_memory(const SharedMemoryRange& range,
                                           OnDone on_done) override {
        requests.push_back({.maps = false,
                            .page = range.offset / DaxWindow::page_bytes(),
                            .pages = range.bytes / DaxWindow::page_bytes(),
                            .done = std::move(on_done)});
        return !is_gone;
    }

    void adopt_shared_memory(const SharedMemoryRange& range) override {
        adopted.push_back(range.offset / DaxWindow::page_bytes());
    }

    /// The oldest request: "+4/2" maps two pages at the fourth, "-4/2" takes them away.
    std::string answer(Result<void, FrontendError> result = {}) {
        if (requests.empty()) {
            return "";
        }
        Request request = std::move(requests.front());
        requests.pop_front();
        request.done(result);
        return (request.maps ? "+" : "-") + std::to_string(request.page) + "/" +
               std::to_string(request.pages);
    }

    std::deque<Request> requests;
    std::vector<uint64_t> adopted;
    bool is_gone = false;
};

class Memory final : public DeviceKeeper {
  public:
    Result<UniqueFd> keep(std::string_view /*name*/, size_t bytes) override {
        if (!memory_.valid()) {
            memory_ = UniqueFd(::memfd_create("kept", MFD_CLOEXEC));
            EXPECT_EQ(::ftruncate(memory_.get(), static_cast<off_t>(bytes)), 0);
        }
        return UniqueFd(::fcntl(memory_.get(), F_DUPFD_CLOEXEC, 0));
    }

    [[nodiscard]] bool goes_on() const override { return false; }

    [[nodiscard]] bool can_hand_back() const override { return false; }

    UniqueFd take(std::string_view /*name*/) override { return {}; }

    bool keep_open(std::string_view /*name*/, int /*fd*/) override { return false; }

    void forget(std::string_view /*name*/) override {}

    /// As another process would have written it.
    void write(size_t record, const std::vector<uint64_t>& words) {
        const auto bytes = static_cast<ssize_t>(words.size() * sizeof(uint64_t));
        EXPECT_EQ(::pwrite(memory_.get(),
                           words.data(),
                           static_cast<size_t>(bytes),
                           static_cast<off_t>(record * 48)),
                  bytes);
    }

  private:
    UniqueFd memory_;
};

class DaxWindowTest : public testing::Test {
  protected:
    ~DaxWindowTest() override { drop_requests(); }

    void begin(std::unique_ptr<DaxRecords> records = {}) {
        drop_requests();
        window_ = std::make_shared<DaxWindow>(kPages * page(), std::move(records));
        frontend_ = std::make_shared<Asked>();
        window_->use(frontend_);
    }

    void SetUp() override { begin(); }

    /// What nobody answers holds the window, which holds the front end.
    void drop_requests() {
        if (frontend_) {
            frontend_->requests.clear();
        }
    }

    [[nodiscard]] static uint64_t page() { return DaxWindow::page_bytes(); }

    /// What became of it, when it has.
    using Outcome = std::shared_ptr<std::optional<Errno>>;

    Outcome map(uint64_t at, uint64_t pages, bool writable = false, uint64_t node = 2) {
        auto outcome = std::make_shared<std::optional<Errno>>();
        window_->map({.offset = at * page(), .bytes = pages * page()},
                     {.fd = UniqueFd(::memfd_create("file", MFD_CLOEXEC)),
                      .node = node,
                      .offset = 0,
                      .writable = writable},
                     [outcome](Errno error) { *outcome = error; });
        return outcome;
    }

    Outcome unmap(uint64_t at, uint64_t pages) {
        auto outcome = std::make_shared<std::optional<Errno>>();
        window_->unmap({{.offset = at * page(), .bytes = pages * page()}},
                       [outcome](Errno error) { *outcome = error; });
        return outcome;
    }

    std::shared_ptr<DaxWindow> window_;
    std::shared_ptr<Asked> frontend_;
};

constexpr auto kRefused = [] { return failure(FrontendError::kRefused); };

TEST_F(DaxWindowTest, WhatDoesNotTouchIsAskedForAtATime) {
    const auto first = map(0, 1);
    const auto second = map(1, 1);
    EXPECT_EQ(frontend_->requests.size(), 2U);
    EXPECT_FALSE(first->has_value());
    EXPECT_EQ(frontend_->answer(), "+0/1");
    EXPECT_EQ(*first, 0);
    EXPECT_FALSE(second->has_value());
    EXPECT_EQ(frontend_->answer(), "+1/1");
    EXPECT_EQ(*second, 0);
    EXPECT_EQ(window_->descriptors(), 2U);
}

TEST_F(DaxWindowTest, WhatTouchesWaitsAndNothingOvertakesIt) {
    const auto first = map(0, 4);
    const auto second = map(2, 1, true);
    const auto third = map(40, 1);
    EXPECT_EQ(frontend_->requests.size(), 1U);
    EXPECT_EQ(frontend_->answer(), "+0/4");
    EXPECT_EQ(frontend_->answer(), "-0/4");
    EXPECT_EQ(frontend_->answer(), "+40/1");
    EXPECT_EQ(frontend_->answer(), "+0/2");
    EXPECT_EQ(frontend_->answer(), "+3/1");
    EXPECT_EQ(frontend_->answer(), "+2/1");
    EXPECT_EQ(*second, 0);
    EXPECT_EQ(*third, 0);
    EXPECT_TRUE(frontend_->requests.empty());
    EXPECT_EQ(window_->descriptors(), 4U);
}

TEST_F(DaxWindowTest, WhatIsRefusedIsUndone) {
    (void)map(0, 4);
    (void)frontend_->answer();
    const auto second = map(1, 1, true);
    EXPECT_EQ(frontend_->answer(), "-0/4");
    EXPECT_EQ(frontend_->answer(), "+0/1");
    EXPECT_EQ(frontend_->answer(kRefused()), "+2/2");
    EXPECT_EQ(frontend_->answer(), "+1/3");
    EXPECT_EQ(*second, EIO);
    EXPECT_TRUE(frontend_->requests.empty());
    const auto third = unmap(0, 64);
    EXPECT_EQ(frontend_->answer(kRefused()), "-0/1");
    EXPECT_EQ(*third, EIO);
    const auto fourth = unmap(0, 64);
    EXPECT_EQ(frontend_->answer(), "-0/1");
    EXPECT_EQ(frontend_->answer(), "-1/3");
    EXPECT_EQ(*fourth, 0);
    EXPECT_EQ(window_->descriptors(), 0U);
}

TEST_F(DaxWindowTest, NobodyIsWaitedForWhoIsGone) {
    frontend_->is_gone = true;
    EXPECT_EQ(*map(0, 1), EIO);
    window_->use(nullptr);
    EXPECT_EQ(*map(0, 1), EIO);
    EXPECT_EQ(window_->descriptors(), 0U);
}

TEST_F(DaxWindowTest, AResetForgetsAndLateAnswersChangeNothing) {
    const auto first = map(0, 4);
    const auto second = map(1, 4);
    window_->forget_all();
    EXPECT_FALSE(first->has_value());
    EXPECT_EQ(*second, EIO) << "it had not begun";
    const auto third = map(0, 2);
    EXPECT_EQ(frontend_->answer(), "+0/4");
    EXPECT_EQ(*first, EIO);
    EXPECT_EQ(frontend_->answer(), "+0/2");
    EXPECT_EQ(*third, 0);
    EXPECT_EQ(window_->descriptors(), 1U);
}

TEST_F(DaxWindowTest, OnlySoManyAreAskedForAtATime) {
    std::vector<Outcome> outcomes;
    for (uint64_t at = 0; at < 64; ++at) {
        outcomes.push_back(map(at, 1));
    }
    EXPECT_EQ(frontend_->requests.size(), size_t{DaxWindow::kActiveMax});
    while (frontend_->answer() != "") {
    }
    for (const auto& outcome : outcomes) {
        EXPECT_EQ(*outcome, 0);
    }
}

// A guest's memory for all of them may be the same, ours is not.
TEST_F(DaxWindowTest, OnlySoManyRangesWait) {
    constexpr size_t kEach = 65'536;
    window_ = std::make_shared<DaxWindow>(2 * kEach * page());
    window_->use(frontend_);
    const auto slow = map(0, 1);
    std::vector<DaxWindow::Range> every_second;
    for (size_t i = 0; i < kEach; ++i) {
        every_second.push_back({.offset = 2 * i * page(), .bytes = page()});
    }
    const auto remove = [&] {
        auto outcome = std::make_shared<std::optional<Errno>>();
        window_->unmap(every_second, [outcome](Errno error) { *outcome = error; });
        return outcome;
    };
    std::vector<Outcome> waiting;
    for (size_t i = 0; i < DaxWindow::kWaitingRangesMax / kEach; ++i) {
        waiting.push_back(remove());
        ASSERT_FALSE(waiting.back()->has_value()) << i;
    }
    EXPECT_EQ(*remove(), ENOMEM);
    EXPECT_EQ(frontend_->answer(), "+0/1");
    EXPECT_EQ(frontend_->answer(), "-0/1");
    for (const auto& outcome : waiting) {
        EXPECT_EQ(*outcome, 0);
    }
    EXPECT_EQ(*remove(), 0);
    const auto again = map(0, 1);
    const auto dropped = remove();
    window_->forget_all();
    EXPECT_EQ(*dropped, EIO);
    EXPECT_EQ(*remove(), 0) << "nothing is counted any more";
}

// --- Records -----------------------------------------------------------------------------------

class DaxRecordsTest : public DaxWindowTest {
  protected:
    void SetUp() override { restart(); }

    void restart() { begin(*DaxRecords::open(memory_)); }

    void open_again() {
        window_->open_again(
            [](uint64_t, bool) { return UniqueFd(::memfd_create("file", MFD_CLOEXEC)); });
    }

    Memory memory_;
};

TEST_F(DaxRecordsTest, TheNextProcessKnowsWhatIsMappedAndRemovesWhatIsNotCertain) {
    (void)map(0, 4);
    (void)frontend_->answer();
    (void)map(8, 1);
    (void)map(10, 1);
    EXPECT_EQ(frontend_->answer(), "+8/1");
    (void)unmap(0, 4);
    restart();
    EXPECT_EQ(frontend_->adopted, (std::vector<uint64_t>{0, 8, 10}));
    open_again();
    EXPECT_EQ(frontend_->answer(), "-0/4");
    EXPECT_EQ(frontend_->answer(kRefused()), "-10/1") << "it had never got there";
    EXPECT_TRUE(frontend_->requests.empty());
    EXPECT_EQ(window_->descriptors(), 1U);
    // It is there.
    EXPECT_EQ(*map(8, 1), 0);
    restart();
    EXPECT_EQ(frontend_->adopted, (std::vector<uint64_t>{8}));
    window_->forget_all();
    restart();
    EXPECT_TRUE(frontend_->adopted.empty());
}

TEST_F(DaxRecordsTest, WhatMakesNoSenseIsDropped) {
    const uint64_t bytes = page();
    memory_.write(0, {2, 1, bytes, 2, 0, 0});                          // out of step
    memory_.write(1, {2, 0, kPages * bytes + bytes, 2, 0, 0});         // beyond the end
    memory_.write(2, {2, ~uint64_t{bytes - 1}, 2 * bytes, 2, 0, 0});   // around it
    memory_.write(3, {2, 0, 0, 2, 0, 0});                              // empty
    memory_.write(4, {2, 0, 4 * bytes, 2, 0, 0});                      // good
    memory_.write(5, {2, 3 * bytes, 2 * bytes, 2, 0, 0});              // over it
    memory_.write(6, {2, 8 * bytes, bytes, 2, 1, 0});                  // a file out of step
    memory_.write(34'815, {~uint64_t{0}, 9 * bytes, bytes, 2, 0, 0});  // the last; not certain
    restart();
    EXPECT_EQ(frontend_->adopted, (std::vector<uint64_t>{0, 9}));
    restart();
    EXPECT_EQ(frontend_->adopted, (std::vector<uint64_t>{0, 9}));
    open_again();
    EXPECT_EQ(frontend_->answer(), "-9/1");
    // The places of the others are free.
    for (uint64_t at = 10; at < 20; ++at) {
        const auto mapped = map(at, 1);
        (void)frontend_->answer();
        EXPECT_EQ(*mapped, 0);
    }
}

// Its file may be gone, so what is left of it could not be mapped again.
TEST_F(DaxRecordsTest, WhatCannotBeOpenedAgainIsRemovedAsAWholeOnly) {
    (void)map(0, 4);
    (void)frontend_->answer();
    restart();
    window_->open_again([](uint64_t, bool) { return UniqueFd(); });
    EXPECT_EQ(*unmap(1, 1), EIO);
    EXPECT_EQ(*map(3, 4), EIO);
    EXPECT_TRUE(frontend_->requests.empty());
    const auto whole = unmap(0, 4);
    EXPECT_EQ(frontend_->answer(), "-0/4");
    EXPECT_EQ(*whole, 0);
}

}  // namespace
}  // namespace outrigger::fs
