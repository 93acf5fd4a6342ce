// SPDX-License-Identifier: Apache-2.0
/// A list whose links lie in its elements: adding and removing allocates nothing, an element is in
/// the list once at most, and whoever destroys an element takes it out first.
#pragma once

namespace outrigger::vsock {

template <class T>
struct ListHook {
    T* before = nullptr;
    T* behind = nullptr;
    bool linked = false;
};

template <class T, ListHook<T> T::*kHook>
class IntrusiveList final {
  public:
    IntrusiveList() = default;
    IntrusiveList(const IntrusiveList&) = delete;
    IntrusiveList& operator=(const IntrusiveList&) = delete;
    ~IntrusiveList() = default;

    [[nodiscard]] bool empty() const { return first_ == nullptr; }

    /// Null when empty.
    [[nodiscard]] T* front() const { return first_; }

    /// Nothing changes for an element that is in the list.
    void push_back(T& element) {
        ListHook<T>& hook = element.*kHook;
        if (hook.linked) {
            return;
        }
        hook = {.before = last_, .behind = nullptr, .linked = true};
        (last_ != nullptr ? (last_->*kHook).behind : first_) = &element;
        last_ = &element;
    }

    /// Nothing happens to an element that is not in the list.
    void remove(T& element) {
        ListHook<T>& hook = element.*kHook;
        if (!hook.linked) {
            return;
        }
        (hook.before != nullptr ? (hook.before->*kHook).behind : first_) = hook.behind;
        (hook.behind != nullptr ? (hook.behind->*kHook).before : last_) = hook.before;
        hook = {};
    }

    void move_to_back(T& element) {
        remove(element);
        push_back(element);
    }

  private:
    T* first_ = nullptr;
    T* last_ = nullptr;
};

}  // namespace outrigger::vsock
