//! A Kafka consumer on a thread of its own, because librdkafka blocks.
//!
//! The thread polls and does what it is told; the async side decides. A partition delivers nothing
//! until it was started: librdkafka is assigned the started ones only, and whatever is still under way from an
//! earlier position is dropped on the async side by counting the starts of each partition.
//!
//! Nothing is ever paused or sought: librdkafka drops a resume that meets an assignment which is still being made
//! (decision 2), and the partition would stay silent for ever. Assigning is the one way, and the last one counts. One
//! assignment waits until the one before it has shown that it works: librdkafka ends the process where two are made
//! at once.
//!
//! A client that stays deaf while the log goes on is replaced by a new one: librdkafka has ways to get there for good
//! (decision 19).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::TopicPartitionList;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::Offset;
use tokio::sync::mpsc as async_mpsc;

use super::kafka::{Kafka, unavailable};
use super::kafka_asking::{Asking, Lost, end_beside};
use super::kafka_consumer::{Context, Wanted};
use super::kafka_look::{id, kafka_offset, log_record};
use super::kafka_silence::Silence;
use super::kafka_waiting::{BATCH, BATCH_BYTES, Waiting};
use super::{Event, LogError, LogRecord, Reader, Sharing, Topic, TopicPartition};

/// How long one poll waits; also how late a command may be noticed.
const POLL: Duration = Duration::from_millis(20);
/// How long nothing is polled. Then the partitions are put away and polling goes on: a member that does not poll is
/// thrown out of its group. Not at once: librdkafka forgets what it has fetched of them, and fetching it again and
/// again cost the writer two thirds of its rows.
const UNPOLLED: Duration = Duration::from_secs(5);
/// How often it is looked whether there is room again.
const ROOM: Duration = Duration::from_millis(1);
/// How long an assignment is waited for until it brings a record, an end or an error. An assignment that comes while the
/// one before it still stops its partitions stops them a second time, and librdkafka ends the process over that
/// (its issue 5573; mended in 2.16.0).
const SETTLING: Duration = Duration::from_secs(2);
/// How often it is looked whether partitions stand still while the log goes on; a client that is deaf is replaced after
/// three looks. What comes to every partition each second, markers, keeps a healthy one from being asked for.
const LOOK: Duration = Duration::from_secs(5);
/// The longest time between two looks, where a new consumer has not helped.
const LONGEST: Duration = Duration::from_secs(300);
/// How often topics and partitions are looked for, where no group does it.
const DISCOVERY: Duration = Duration::from_secs(2);

enum Command {
    Start { at: TopicPartition, offset: u64, generation: u64 },
    Commit(Vec<(TopicPartition, u64)>),
}

enum Told {
    Event(Event),
    Started { at: TopicPartition, generation: u64 },
}

/// The async side.
pub(super) struct KafkaReader {
    commands: mpsc::Sender<Command>,
    told: async_mpsc::Receiver<Told>,
    /// Of each started partition: which start it was, and whether the thread has done so yet.
    starts: HashMap<TopicPartition, (u64, bool)>,
    generation: u64,
}

impl KafkaReader {
    pub(super) fn open(cluster: &ClientConfig, topic: Topic, group: &str, sharing: Sharing) -> Result<Self, LogError> {
        let (rebalanced, rebalances) = mpsc::channel();
        let mut config = Kafka::consumer_config(cluster, group);
        // An end is a sign too that an assignment works.
        config.set("enable.partition.eof", "true");
        let wanted = Wanted { config, topic, sharing, rebalanced };
        let (commands, received) = mpsc::channel();
        let (tell, told) = async_mpsc::channel(1);
        let thread = Thread {
            consumer: wanted.consumer()?,
            asking: Asking::begin(cluster)?,
            wanted,
            rebalances,
            received,
            tell,
            topics: HashMap::new(),
            known: BTreeSet::new(),
            assigned: BTreeSet::new(),
            started: BTreeMap::new(),
            starting: BTreeMap::new(),
            stale: false,
            lost: false,
            outbox: VecDeque::new(),
            waiting: Waiting::default(),
            full: None,
            held: false,
            silence: Silence::default(),
            patience: LOOK,
        };
        std::thread::Builder::new().name("kafka-reader".into()).spawn(move || thread.run()).map_err(unavailable)?;
        Ok(Self { commands, told, starts: HashMap::new(), generation: 0 })
    }

    fn accept(&mut self, told: Told) -> Option<Event> {
        match told {
            Told::Started { at, generation } => {
                if let Some(start) = self.starts.get_mut(&at).filter(|start| start.0 == generation) {
                    start.1 = true;
                }
                None
            }
            Told::Event(Event::Records(mut records)) => {
                records.retain(|record| self.starts.get(&record.at).is_some_and(|start| start.1));
                (!records.is_empty()).then_some(Event::Records(records))
            }
            Told::Event(event) => {
                if let Event::Assigned(partitions) | Event::Revoked(partitions) = &event {
                    for partition in partitions {
                        self.starts.remove(partition);
                    }
                }
                Some(event)
            }
        }
    }
}

#[async_trait]
impl Reader for KafkaReader {
    async fn next(&mut self) -> Result<Event, LogError> {
        loop {
            let told = self.told.recv().await.ok_or_else(|| unavailable("the reader's thread ended"))?;
            if let Some(event) = self.accept(told) {
                return Ok(event);
            }
        }
    }

    async fn start(&mut self, positions: Vec<(TopicPartition, u64)>) -> Result<(), LogError> {
        for (at, offset) in positions {
            // Counted for the reader, not the partition: a start from before a rebalance must not pass for one after it.
            self.generation += 1;
            let generation = self.generation;
            self.starts.insert(at.clone(), (generation, false));
            self.commands.send(Command::Start { at, offset, generation }).map_err(unavailable)?;
        }
        Ok(())
    }

    fn commit(&mut self, positions: Vec<(TopicPartition, u64)>) {
        // A thread that has ended is noticed by `next`.
        let _ = self.commands.send(Command::Commit(positions));
    }
}

/// The blocking side.
struct Thread {
    consumer: BaseConsumer<Context>,
    asking: Asking,
    wanted: Wanted,
    rebalances: mpsc::Receiver<Event>,
    received: mpsc::Receiver<Command>,
    tell: async_mpsc::Sender<Told>,
    /// One shared name a topic.
    topics: HashMap<String, Arc<str>>,
    /// With [`Sharing::All`]: what was announced.
    known: BTreeSet<TopicPartition>,
    /// With [`Sharing::Group`]: what the group gave us.
    assigned: BTreeSet<TopicPartition>,
    /// The started partitions, and where each is read next.
    started: BTreeMap<TopicPartition, u64>,
    /// The partitions that the next assignment starts: where, and which start it is.
    starting: BTreeMap<TopicPartition, (u64, u64)>,
    /// Whether another assignment is to be made.
    stale: bool,
    /// Whether some position was said to be out of range; librdkafka does not say which, and says it once.
    lost: bool,
    /// What the async side has not taken yet, in order.
    outbox: VecDeque<Told>,
    /// Records that it has not taken yet, each from after what is in the outbox of its partition.
    waiting: Waiting,
    /// Since when there is no room for more.
    full: Option<Instant>,
    /// Whether no partition is read because the async side is slow.
    held: bool,
    silence: Silence,
    /// How long after one look the next one comes.
    patience: Duration,
}

/// The async side is gone: the reader was dropped.
struct Gone;

impl Thread {
    fn run(mut self) {
        let mut discover_at = Instant::now();
        let mut look_at = Instant::now() + LOOK;
        while !self.tell.is_closed() {
            if self.wanted.sharing == Sharing::All && Instant::now() >= discover_at {
                self.discover();
                discover_at = Instant::now() + DISCOVERY;
            }
            if Instant::now() >= look_at {
                self.listen();
                look_at = Instant::now() + self.patience;
            }
            if self.turn().is_err() {
                break;
            }
        }
        self.settle();
    }

    /// Before a consumer may end: to end is to assign nothing.
    fn settle(&mut self) {
        while !self.has_settled() {
            self.poll_batch();
        }
    }

    fn turn(&mut self) -> Result<(), Gone> {
        if self.has_room() || (self.held && !self.stale) {
            self.poll();
        } else {
            std::thread::sleep(ROOM);
        }
        loop {
            match self.received.try_recv() {
                Ok(Command::Commit(positions)) => self.commit(positions),
                Ok(Command::Start { at, offset, generation }) => self.begin(at, offset, generation),
                Err(mpsc::TryRecvError::Empty) => break,
                Err(mpsc::TryRecvError::Disconnected) => return Err(Gone),
            }
        }
        if self.stale && self.has_settled() {
            self.assign();
        }
        self.hand_over()
    }

    /// Whether the last assignment has shown that it works, or has had its time to.
    fn has_settled(&self) -> bool {
        self.consumer.context().settling().is_none_or(|since| since.elapsed() >= SETTLING)
    }

    fn has_room(&self) -> bool {
        self.outbox.is_empty() && self.waiting.has_room()
    }

    /// One poll: what the group did comes before the records that were polled after it.
    fn poll(&mut self) {
        let records = self.poll_batch();
        self.follow_group();
        for record in records {
            if let Some(position) = self.started.get_mut(&record.at) {
                *position = record.offset + 1;
            }
            self.waiting.push(record);
        }
        if self.lost {
            self.find_lost();
        }
    }

    /// Notes what the group gave and took.
    fn follow_group(&mut self) {
        while let Ok(event) = self.rebalances.try_recv() {
            self.take_note(event);
        }
    }

    fn take_note(&mut self, event: Event) {
        self.started.clear();
        self.starting.clear();
        self.waiting = Waiting::default();
        self.stale = false;
        self.assigned = match &event {
            Event::Assigned(partitions) => partitions.iter().cloned().collect(),
            _ => BTreeSet::new(),
        };
        self.outbox.push_back(Told::Event(event));
    }

    /// Hands over what there is room for; puts the partitions away while there is none for long.
    fn hand_over(&mut self) -> Result<(), Gone> {
        while !self.outbox.is_empty() || !self.waiting.is_empty() {
            let room = match self.tell.try_reserve() {
                Ok(room) => room,
                Err(async_mpsc::error::TrySendError::Full(())) => break,
                Err(async_mpsc::error::TrySendError::Closed(())) => return Err(Gone),
            };
            let next = self.outbox.pop_front();
            room.send(next.unwrap_or_else(|| Told::Event(Event::Records(self.waiting.take()))));
        }
        self.full = if self.has_room() { None } else { self.full.or_else(|| Some(Instant::now())) };
        if self.full.is_some() {
            self.silence.forget();
        }
        let hold = self.full.is_some_and(|since| since.elapsed() >= UNPOLLED);
        if hold != self.held {
            self.held = hold;
            self.stale = true;
        }
        Ok(())
    }

    /// Waits for the first record, then takes what is there.
    fn poll_batch(&mut self) -> Vec<LogRecord> {
        let (mut records, mut bytes) = (Vec::new(), 0);
        let mut wait = if self.waiting.is_empty() || self.held { POLL } else { ROOM };
        while records.len() < BATCH && bytes < BATCH_BYTES {
            match self.consumer.poll(wait) {
                Some(Err(KafkaError::PartitionEOF(_))) => self.consumer.context().set_settling(None),
                Some(Ok(message)) => {
                    self.consumer.context().set_settling(None);
                    let name = message.topic();
                    let topic = match self.topics.get(name) {
                        Some(topic) => topic.clone(),
                        None => self.topics.entry(name.to_owned()).or_insert_with(|| name.into()).clone(),
                    };
                    bytes += message.payload_len();
                    records.push(log_record(&topic, &message));
                }
                Some(Err(error)) => {
                    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) {
                        self.consumer.context().set_settling(None);
                        self.lost = true;
                    }
                    tracing::debug!(%error, "Kafka consumer");
                    break;
                }
                None => break,
            }
            wait = Duration::ZERO;
        }
        records
    }

    /// Looks for positions that the log does not hold; as long as some of it cannot be asked, it will be asked again.
    fn find_lost(&mut self) {
        let Some(Lost { partitions, all }) = self.asking.lost(&self.started) else { return };
        self.lost = !all;
        if all && partitions.is_empty() {
            // The log has grown past it again; librdkafka would not read that partition any more.
            self.stale = true;
        }
        for at in partitions {
            self.started.remove(&at);
            let before = self.waiting.take_of(&at);
            self.outbox.push_back(Told::Event(Event::Records(before)));
            self.outbox.push_back(Told::Event(Event::OutOfRange(at)));
        }
    }

    /// Replaces a consumer that is deaf.
    fn listen(&mut self) {
        let asking = &mut self.asking;
        let deaf = self.silence.look(&self.started, |at| asking.end(at));
        match deaf {
            Some(at) => self.begin_anew(&at),
            None => self.patience = LOOK.max(self.patience.saturating_sub(LOOK)),
        }
    }

    /// Positions are those of what is handed over or waits for it: what was polled otherwise is read again.
    fn begin_anew(&mut self, deaf: &TopicPartition) {
        tracing::error!(
            partition = %deaf, position = self.started.get(deaf),
            "the log goes on and nothing of it comes; replacing the consumer"
        );
        metrics::counter!("chat_sync_log_consumers_replaced_total").increment(1);
        // Where that does not help it is not tried again and again.
        self.patience = LONGEST.min(self.patience * 2);
        self.settle();
        // What the former one still says is of no interest.
        let (rebalanced, rebalances) = mpsc::channel();
        self.wanted.rebalanced = rebalanced;
        match self.wanted.consumer() {
            Ok(new) => {
                self.follow_group();
                self.rebalances = rebalances;
                end_beside(std::mem::replace(&mut self.consumer, new));
                if self.wanted.sharing == Sharing::Group && !self.assigned.is_empty() {
                    self.take_note(Event::Revoked(self.assigned.iter().cloned().collect()));
                }
                self.stale = self.wanted.sharing == Sharing::All;
            }
            Err(error) => {
                tracing::error!(%error, "no new consumer");
                // The former one reads again what it was polled for while it settled.
                self.stale = true;
            }
        }
        self.silence.forget();
    }

    fn commit(&self, positions: Vec<(TopicPartition, u64)>) {
        let mut list = TopicPartitionList::new();
        for (at, offset) in positions {
            // Only for people who look: what cannot be committed now will be with the next one.
            let _ = list.add_partition_offset(&at.topic, id(at.partition), Offset::Offset(kafka_offset(offset)));
        }
        if let Err(error) = self.consumer.commit(&list, CommitMode::Async) {
            tracing::debug!(%error, "commit");
        }
    }

    /// Notes where a partition is to begin, unless somebody else in the group has it by now.
    fn begin(&mut self, at: TopicPartition, offset: u64, generation: u64) {
        let ours = match self.wanted.sharing {
            Sharing::All => true,
            Sharing::Group => self.assigned.contains(&at),
        };
        if ours {
            self.starting.insert(at, (offset, generation));
            self.stale = true;
        }
    }

    /// Assigns the started partitions anew, each at the position that is delivered next.
    fn assign(&mut self) {
        self.stale = false;
        for (at, (offset, generation)) in std::mem::take(&mut self.starting) {
            self.started.insert(at.clone(), offset);
            self.waiting.take_of(&at);
            self.outbox.push_back(Told::Started { at, generation });
        }
        let mut list = TopicPartitionList::new();
        for (at, offset) in self.started.iter().filter(|_| !self.held) {
            // A name from librdkafka itself, a number that fits: it cannot fail.
            let _ = list.add_partition_offset(&at.topic, id(at.partition), Offset::Offset(kafka_offset(*offset)));
        }
        // Before it is made: what is polled later is of it.
        self.consumer.context().set_settling((list.count() > 0).then(Instant::now));
        if let Err(error) = self.consumer.assign(&list) {
            tracing::warn!(%error, "cannot assign partitions");
        }
    }

    /// Announces partitions that were not there before.
    fn discover(&mut self) {
        let Some(metadata) = self.asking.metadata() else { return };
        let mut new = Vec::new();
        for topic in metadata.topics().iter().filter(|topic| self.wanted.topic.matches(topic.name())) {
            for partition in topic.partitions() {
                let at = TopicPartition::new(topic.name(), u32::try_from(partition.id()).unwrap_or_default());
                if self.known.insert(at.clone()) {
                    new.push(at);
                }
            }
        }
        if !new.is_empty() {
            self.outbox.push_back(Told::Event(Event::Assigned(new)));
        }
    }
}
