//! One thread over virtual time: runs tasks and timers in an order that the seed decides.
//!
//! Time stands still but for two things: each turn of a task costs a little, and when no task is ready the clock moves
//! on to the next timer. Which of the ready tasks runs next is drawn, so that every order that real cores could give
//! comes up sooner or later.
//!
//! A task belongs to a group. A group is a process of a simulated host: it can be paused (SIGSTOP) and killed (SIGKILL),
//! at any await of any of its tasks.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use super::random::Random;
use super::trace::Trace;
use crate::types::Nanos;

/// What a turn of a task costs, so that a task that never rests can't stop the time.
const TURN: Nanos = Nanos(250);

/// Kinds of events in the trace's hash.
const TURN_TAKEN: u64 = 1;
const TIMER_FIRED: u64 = 2;

/// The tasks of one simulated process, or of the harness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(u64);

/// Clones share one executor.
#[derive(Clone)]
pub struct Executor(Rc<State>);

struct State {
    now: Cell<Nanos>,
    random: Random,
    trace: Trace,
    tasks: RefCell<BTreeMap<u64, Task>>,
    /// Tasks that can run, in no order that matters.
    ready: RefCell<Vec<u64>>,
    woken: Arc<Woken>,
    timers: RefCell<BTreeMap<TimerKey, Action>>,
    groups: RefCell<BTreeMap<GroupId, Group>>,
    number_last: Cell<u64>,
    /// No task is taken any more: the world ends.
    ended: Cell<bool>,
}

struct Task {
    group: GroupId,
    /// None while the task runs.
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    waker: Arc<TaskWaker>,
}

#[derive(Default)]
struct Group {
    tasks: BTreeSet<u64>,
    paused: bool,
    /// Woken while paused.
    held: Vec<u64>,
}

/// When, and in the order of their making where two are due at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct TimerKey {
    at: Nanos,
    number: u64,
}

enum Action {
    Wake(Waker),
    Call(Box<dyn FnOnce()>),
}

/// Wakers must be `Send`, so what they reach is behind a lock, though only one thread ever takes it.
#[derive(Default)]
struct Woken(Mutex<Vec<u64>>);

struct TaskWaker {
    task: u64,
    /// Woken and not yet drawn: a task waits for its turn once, however often it is woken.
    waits: AtomicBool,
    woken: Arc<Woken>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.waits.swap(true, Ordering::Relaxed) {
            self.woken.0.lock().unwrap_or_else(PoisonError::into_inner).push(self.task);
        }
    }
}

impl Executor {
    #[must_use]
    pub fn new(seed: u64) -> Executor {
        Executor(Rc::new(State {
            now: Cell::new(Nanos::ZERO),
            random: Random::new(seed),
            trace: Trace::default(),
            tasks: RefCell::default(),
            ready: RefCell::default(),
            woken: Arc::default(),
            timers: RefCell::default(),
            groups: RefCell::default(),
            number_last: Cell::new(0),
            ended: Cell::new(false),
        }))
    }

    /// The true time, which no node can see: nanoseconds since the run began.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.0.now.get()
    }

    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.0.trace
    }

    /// Tells an event of this moment.
    pub fn tell(&self, what: impl std::fmt::Display) {
        self.0.trace.tell(self.now(), what);
    }

    /// A stream of random numbers for one part of the world.
    #[must_use]
    pub fn fork_random(&self) -> Random {
        self.0.random.fork()
    }

    fn next_number(&self) -> u64 {
        let number = self.0.number_last.get() + 1;
        self.0.number_last.set(number);
        number
    }

    // Groups.

    #[must_use]
    pub fn new_group(&self) -> GroupId {
        let group = GroupId(self.next_number());
        self.0.groups.borrow_mut().insert(group, Group::default());
        group
    }

    /// Runs the task until it ends or its group is killed. In a killed group nothing starts any more.
    pub fn spawn(&self, group: GroupId, future: impl Future<Output = ()> + 'static) {
        let mut groups = self.0.groups.borrow_mut();
        let Some(members) = groups.get_mut(&group).filter(|_| !self.0.ended.get()) else {
            drop(groups);
            // Not under the borrow: what the future holds may come back here as it is dropped.
            drop(future);
            return;
        };
        let task = self.next_number();
        members.tasks.insert(task);
        drop(groups);
        let woken = Arc::clone(&self.0.woken);
        let waker = Arc::new(TaskWaker { task, waits: AtomicBool::new(false), woken });
        let future: Pin<Box<dyn Future<Output = ()>>> = Box::pin(future);
        self.0.tasks.borrow_mut().insert(task, Task { group, future: Some(future), waker: Arc::clone(&waker) });
        waker.wake();
    }

    #[must_use]
    pub fn is_alive(&self, group: GroupId) -> bool {
        self.0.groups.borrow().contains_key(&group)
    }

    /// Ends every task of the group where it stands, as SIGKILL or a power cut would. A task may kill its own group: it
    /// then ends with its current turn.
    pub fn kill(&self, group: GroupId) {
        let Some(members) = self.0.groups.borrow_mut().remove(&group) else { return };
        for task in members.tasks {
            let removed = self.0.tasks.borrow_mut().remove(&task);
            // Dropped here, where nothing is borrowed: a future's parts may close streams or wake other tasks.
            drop(removed);
        }
    }

    /// No task of the group runs until `resume`; what wakes them meanwhile is not lost.
    pub fn pause(&self, group: GroupId) {
        if let Some(members) = self.0.groups.borrow_mut().get_mut(&group) {
            members.paused = true;
        }
    }

    pub fn resume(&self, group: GroupId) {
        if let Some(members) = self.0.groups.borrow_mut().get_mut(&group) {
            members.paused = false;
            self.0.ready.borrow_mut().append(&mut members.held);
        }
    }

    // Time.

    /// Waits in true time. A node's own sleep goes by its own clock (`runtime`).
    #[must_use]
    pub fn sleep(&self, duration: Nanos) -> Sleep {
        Sleep { executor: self.clone(), at: self.now().saturating_add(duration), timer: None }
    }

    /// Calls the function in `delay`; it belongs to no group.
    pub fn call_in(&self, delay: Nanos, action: impl FnOnce() + 'static) {
        if !self.0.ended.get() {
            self.set_timer(self.now().saturating_add(delay), Action::Call(Box::new(action)));
        }
    }

    fn set_timer(&self, at: Nanos, action: Action) -> TimerKey {
        let key = TimerKey { at, number: self.next_number() };
        self.0.timers.borrow_mut().insert(key, action);
        key
    }

    // Running.

    /// Takes the next step: a due timer, else a ready task, else the next timer. False where nothing is left to happen.
    pub fn step(&self) -> bool {
        self.step_until(Nanos(u64::MAX))
    }

    /// As `step`, but false also where nothing is left to happen until the true time `deadline`.
    pub fn step_until(&self, deadline: Nanos) -> bool {
        if self.now() > deadline {
            return false;
        }
        if self.fire_timer(self.now()) {
            return true;
        }
        self.collect_woken();
        if let Some(task) = self.draw_ready() {
            self.run(task);
            return true;
        }
        self.fire_timer(deadline)
    }

    /// Steps until the true time `deadline`; timers due exactly then have fired.
    pub fn run_until(&self, deadline: Nanos) {
        while self.step_until(deadline) {}
        self.0.now.set(self.now().max(deadline));
    }

    /// Steps until the future ends. None where nothing is left to happen before it does, or the time is up.
    pub fn block_on<T: 'static>(
        &self,
        group: GroupId,
        time_max: Nanos,
        future: impl Future<Output = T> + 'static,
    ) -> Option<T> {
        let deadline = self.now().saturating_add(time_max);
        let result = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&result);
        self.spawn(group, async move {
            let value = future.await;
            *slot.borrow_mut() = Some(value);
        });
        while result.borrow().is_none() && self.step_until(deadline) {}
        result.borrow_mut().take()
    }

    /// Drops every task and timer. Needed at the end of a run, because tasks hold the executor that holds them.
    pub fn end(&self) {
        self.0.ended.set(true);
        loop {
            let first = self.0.groups.borrow().keys().next().copied();
            let Some(group) = first else { break };
            self.kill(group);
        }
        loop {
            let first = self.0.timers.borrow_mut().pop_first();
            if first.is_none() {
                break;
            }
        }
    }

    fn fire_timer(&self, until: Nanos) -> bool {
        let mut timers = self.0.timers.borrow_mut();
        let Some((key, action)) =
            timers.first_entry().filter(|first| first.key().at <= until).map(|e| e.remove_entry())
        else {
            return false;
        };
        drop(timers);
        self.0.now.set(self.now().max(key.at));
        self.0.trace.mix(self.now(), TIMER_FIRED, key.number);
        match action {
            Action::Wake(waker) => waker.wake(),
            Action::Call(call) => call(),
        }
        true
    }

    fn collect_woken(&self) {
        let mut woken = self.0.woken.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.ready.borrow_mut().append(&mut woken);
    }

    /// A ready task that may run. Those of paused groups are put aside; those that ended are forgotten.
    fn draw_ready(&self) -> Option<u64> {
        let mut ready = self.0.ready.borrow_mut();
        let mut groups = self.0.groups.borrow_mut();
        while !ready.is_empty() {
            let drawn = self.0.random.below_len(ready.len());
            let task = ready.swap_remove(drawn);
            let Some(group) = self.0.tasks.borrow().get(&task).map(|task| task.group) else { continue };
            let members = groups.get_mut(&group).expect("the tasks of a killed group are removed");
            if !members.paused {
                return Some(task);
            }
            members.held.push(task);
        }
        None
    }

    fn run(&self, id: u64) {
        let (future, waker) = {
            let mut tasks = self.0.tasks.borrow_mut();
            let task = tasks.get_mut(&id).expect("a drawn task exists");
            task.waker.waits.store(false, Ordering::Relaxed);
            (task.future.take(), Waker::from(Arc::clone(&task.waker)))
        };
        let mut future = future.expect("only one task runs at a time");
        self.0.now.set(self.now().saturating_add(TURN));
        self.0.trace.mix(self.now(), TURN_TAKEN, id);
        let poll = future.as_mut().poll(&mut Context::from_waker(&waker));
        let mut tasks = self.0.tasks.borrow_mut();
        // It is gone where the task killed its own group; the future is then dropped below.
        if let Some(task) = tasks.get_mut(&id) {
            match poll {
                Poll::Pending => {
                    task.future = Some(future);
                    return;
                }
                Poll::Ready(()) => {
                    let task = tasks.remove(&id).expect("just found");
                    if let Some(group) = self.0.groups.borrow_mut().get_mut(&task.group) {
                        group.tasks.remove(&id);
                    }
                }
            }
        }
        drop(tasks);
        drop(future);
    }
}

/// Ends at a true time.
pub struct Sleep {
    executor: Executor,
    at: Nanos,
    timer: Option<TimerKey>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if let Some(timer) = self.timer.take() {
            self.executor.0.timers.borrow_mut().remove(&timer);
        }
        if self.executor.now() >= self.at {
            return Poll::Ready(());
        }
        let timer = self.executor.set_timer(self.at, Action::Wake(context.waker().clone()));
        self.timer = Some(timer);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            self.executor.0.timers.borrow_mut().remove(&timer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::yield_now;

    fn order_of_three(seed: u64) -> (Vec<u32>, u64) {
        let executor = Executor::new(seed);
        let group = executor.new_group();
        let order = Rc::new(RefCell::new(Vec::new()));
        for number in 0..3 {
            let order = Rc::clone(&order);
            executor.spawn(group, async move {
                for _ in 0..2 {
                    order.borrow_mut().push(number);
                    yield_now().await;
                }
            });
        }
        while executor.step() {}
        let order = order.borrow().clone();
        (order, executor.trace().hash())
    }

    #[test]
    fn a_seed_gives_one_order_and_seeds_give_many() {
        assert_eq!(order_of_three(5), order_of_three(5));
        let orders: BTreeSet<Vec<u32>> = (0..200).map(|seed| order_of_three(seed).0).collect();
        assert!(orders.len() > 30, "only {} orders of 90 came up", orders.len());
    }

    #[test]
    fn time_moves_to_the_next_timer_and_timers_fire_in_order() {
        let executor = Executor::new(1);
        let group = executor.new_group();
        let fired = Rc::new(RefCell::new(Vec::new()));
        for millis in [30, 10, 20] {
            let (fired, at) = (Rc::clone(&fired), executor.clone());
            executor.spawn(group, async move {
                at.sleep(Nanos::from_millis(millis)).await;
                fired.borrow_mut().push((millis, at.now().0 / 1_000_000));
            });
        }
        executor.run_until(Nanos::from_secs(1));
        assert_eq!(*fired.borrow(), [(10, 10), (20, 20), (30, 30)]);
        assert_eq!(executor.now(), Nanos::from_secs(1));
    }

    #[test]
    fn a_task_that_never_rests_does_not_stop_the_time() {
        let executor = Executor::new(1);
        let group = executor.new_group();
        executor.spawn(group, async {
            loop {
                yield_now().await;
            }
        });
        let sleep = executor.sleep(Nanos::from_millis(1));
        assert_eq!(executor.block_on(group, Nanos::from_secs(1), sleep), Some(()));
    }

    #[test]
    fn a_killed_group_runs_no_further_and_drops_what_it_held() {
        let executor = Executor::new(1);
        let (victim, other) = (executor.new_group(), executor.new_group());
        let held = Rc::new(());
        let (inside, itself) = (Rc::clone(&held), executor.clone());
        executor.spawn(victim, async move {
            itself.sleep(Nanos::from_millis(5)).await;
            drop(inside);
            panic!("a killed task ran");
        });
        executor.run_until(Nanos::from_millis(1));
        executor.kill(victim);
        assert_eq!(Rc::strong_count(&held), 1);
        assert!(!executor.is_alive(victim) && executor.is_alive(other));
        executor.spawn(victim, async { panic!("a task started in a killed group") });
        executor.run_until(Nanos::from_millis(10));
    }

    #[test]
    fn a_task_may_kill_its_own_group() {
        let executor = Executor::new(1);
        let group = executor.new_group();
        let itself = executor.clone();
        executor.spawn(group, async move {
            itself.kill(group);
            yield_now().await;
            panic!("a killed task ran");
        });
        while executor.step() {}
        assert!(!executor.is_alive(group));
    }

    #[test]
    fn a_paused_group_stands_still_and_loses_no_wake_up() {
        let executor = Executor::new(1);
        let group = executor.new_group();
        let ended_at = Rc::new(Cell::new(None));
        let (slot, at) = (Rc::clone(&ended_at), executor.clone());
        executor.spawn(group, async move {
            at.sleep(Nanos::from_millis(5)).await;
            slot.set(Some(at.now()));
        });
        executor.run_until(Nanos::from_millis(1));
        executor.pause(group);
        executor.run_until(Nanos::from_millis(50));
        assert_eq!(ended_at.get(), None);
        executor.resume(group);
        executor.run_until(Nanos::from_millis(51));
        assert!(ended_at.get().is_some_and(|at| at >= Nanos::from_millis(50)));
    }

    #[test]
    fn the_end_drops_every_task_though_tasks_hold_the_executor() {
        let executor = Executor::new(1);
        let group = executor.new_group();
        let held = Rc::new(());
        let (inside, itself) = (Rc::clone(&held), executor.clone());
        executor.spawn(group, async move {
            let _inside = inside;
            itself.sleep(Nanos::from_secs(1)).await;
        });
        executor.call_in(Nanos::from_secs(5), {
            let inside = Rc::clone(&held);
            move || drop(inside)
        });
        executor.step();
        executor.end();
        assert_eq!(Rc::strong_count(&held), 1);
        assert_eq!(Rc::strong_count(&executor.0), 1);
    }
}
