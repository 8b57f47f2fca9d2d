//! The thread that reads values back from the file, so that no async worker waits for the disk. It starts with the
//! first value that is not in memory.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::disk::DiskReader;
use crate::state::Shared;
use crate::{Error, Revision};

/// Jobs that may wait for the thread; more wait outside.
const READ_QUEUE_MAX: usize = 64;
/// Values that one job reads, so that a long list does not keep single reads waiting.
pub(crate) const READ_VALUES_MAX: usize = 128;

pub(crate) struct Reader {
    path: PathBuf,
    shared: Arc<Shared>,
    queue: Mutex<Queue>,
}

enum Queue {
    Idle,
    Running(mpsc::Sender<Job>),
    Closed,
}

enum Job {
    Read { rows: Vec<(Revision, Revision)>, reply: Reply },
    Close { reply: oneshot::Sender<()> },
}

type Reply = oneshot::Sender<Result<Vec<Option<Bytes>>, Error>>;

impl Reader {
    pub(crate) fn new(path: PathBuf, shared: Arc<Shared>) -> Reader {
        Reader { path, shared, queue: Mutex::new(Queue::Idle) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The values of at most [`READ_VALUES_MAX`] rows, given by their creation and modification. `None` where the row
    /// has changed; then the change is in memory already.
    pub(crate) async fn read(
        &self,
        rows: Vec<(Revision, Revision)>,
    ) -> Result<Vec<Option<Bytes>>, Error> {
        let (reply, answer) = oneshot::channel();
        let job = Job::Read { rows, reply };
        self.running()?.send(job).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// Ends the thread and its connection.
    pub(crate) async fn close(&self) {
        let queue = std::mem::replace(&mut *self.locked(), Queue::Closed);
        let Queue::Running(queue) = queue else { return };
        let (reply, closed) = oneshot::channel();
        // An error means that the thread is gone, which is what was asked for.
        if queue.send(Job::Close { reply }).await.is_ok() {
            closed.await.ok();
        }
    }

    fn running(&self) -> Result<mpsc::Sender<Job>, Error> {
        let mut queue = self.locked();
        match &*queue {
            Queue::Running(sender) => return Ok(sender.clone()),
            Queue::Closed => return Err(Error::Closed),
            Queue::Idle => {}
        }
        let disk = DiskReader::open(&self.path)?;
        let (sender, jobs) = mpsc::channel(READ_QUEUE_MAX);
        let shared = self.shared.clone();
        thread::Builder::new()
            .name("store-reader".to_owned())
            .spawn(move || run(jobs, disk, &shared))
            .map_err(|error| Error::Read {
                path: self.path.clone(),
                detail: error.to_string().into(),
            })?;
        *queue = Queue::Running(sender.clone());
        Ok(sender)
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(mut jobs: mpsc::Receiver<Job>, disk: DiskReader, shared: &Shared) {
    while let Some(job) = jobs.blocking_recv() {
        match job {
            Job::Read { rows, reply } => {
                let values: Result<Vec<_>, Error> =
                    rows.iter().map(|&(created, modified)| disk.value(created, modified)).collect();
                if values.as_ref().is_ok_and(|values| values.iter().any(Option::is_none)) {
                    // The writer is between the file and the memory, or was: wait for it to leave.
                    drop(shared.gate());
                }
                // The one who asked may have gone.
                reply.send(values).ok();
            }
            Job::Close { reply } => {
                drop(disk);
                reply.send(()).ok();
                return;
            }
        }
    }
}
