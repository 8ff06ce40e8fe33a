//! One question being answered.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::{sync::mpsc, time::timeout_at};
use uuid::Uuid;

use super::{
    Answer, AskEvent, AskRequest, EXTRACTIVE, Explanation, Method, NumberedPassage, PassageUse, Use,
    account::Account,
    draft::{CallerLeft, Draft},
    plan::{Plan, is_abstention, plan},
    reading::Reading,
};
use crate::{
    models::{
        GeneratedPart, Generator,
        router::{Attempt, RouteError, Routed, Selector},
    },
    rag::{
        Rag, RagError,
        answer_cache::CacheKey,
        citations::{CitedSentence, SentenceReader},
        extractive::quotes,
        grounding::Support,
        prompts::ABSTENTION,
        search::SearchOutcome,
    },
    store::Collection,
};

/// How a backend's writing ended.
enum Generation {
    /// This backend wrote at least one supported sentence.
    Supported(String),
    /// This backend says that the passages do not hold the answer.
    Absent(String),
    /// Nothing usable was written.
    Nothing,
}

/// One question being answered.
pub(super) struct Run {
    rag: Rag,
    request: AskRequest,
    collection: Collection,
    key: Option<CacheKey>,
    reading: Reading,
    draft: Draft,
    started: Instant,
    deadline: tokio::time::Instant,
    attempts: Vec<Attempt>,
    context: Vec<PassageUse>,
    explanation: Explanation,
    account: Account,
}

impl Run {
    pub(super) fn new(
        rag: Rag,
        request: AskRequest,
        k: usize,
        found: SearchOutcome,
        key: Option<CacheKey>,
        events: mpsc::Sender<Result<AskEvent, RagError>>,
        started: Instant,
    ) -> Self {
        let account = Account::open(&rag, request.caller, &found);
        let (rerank_failed, rerank_stage) = match &found.rerank {
            Some(outcome) => (outcome.result.is_err(), Some(("rerank", outcome.time))),
            None => (false, None),
        };
        let numbered = |(index, passage)| NumberedPassage { n: index + 1, passage };
        let sources: Vec<_> = found.passages.into_iter().enumerate().map(numbered).collect();
        let reading = Reading::new(&request.question, found.vector, sources);
        let space = &found.collection.space;
        let entry = rag.catalog.embedder(&space.model);
        let best = reading.best_support(entry.map_or(0.0, |entry| entry.coverage_weight));
        let similarities = reading.sources.iter().map(|source| source.passage.similarity);
        let explanation = Explanation {
            k,
            answer_cut: entry.map_or(-1.0, |entry| entry.answer_cut),
            best_similarity: similarities.reduce(f32::max),
            question_coverage: best.map_or(0.0, |(_, support)| support),
            score: best.map(|(score, _)| score),
            stages: [("embed question", found.embed_time), ("search", found.search_time)]
                .into_iter()
                .chain(rerank_stage)
                .collect(),
            space: space.id.clone(),
            collection: found.collection.name.clone(),
            ..Explanation::default()
        };
        let mut draft = Draft::new(events);
        if rerank_failed {
            draft.note("the reranker did not work; the passages are in the order of the search");
        }
        Self {
            key,
            context: reading.all_read(),
            reading,
            draft,
            collection: found.collection,
            deadline: (started + Duration::from_millis(rag.catalog.ask.deadline_ms)).into(),
            rag,
            request,
            started,
            attempts: Vec::new(),
            explanation,
            account,
        }
    }

    /// Works until the answer is complete or the caller has left.
    pub(super) async fn answer(mut self) {
        let caller_left = self.draft.caller_left();
        let result = tokio::select! {
            result = self.answer_inner() => result,
            () = caller_left => Err(CallerLeft),
        };
        if result.is_err() {
            tracing::debug!("the caller left before the answer was complete");
        }
    }

    async fn answer_inner(&mut self) -> Result<(), CallerLeft> {
        self.draft.send(AskEvent::Sources(self.reading.sources.clone())).await?;
        let answerable = self.explanation.score.is_some_and(|score| score >= self.explanation.answer_cut);
        if !answerable {
            self.context.iter_mut().for_each(|passage| passage.outcome = Use::Unread);
            return self.abstain(EXTRACTIVE.into()).await;
        }
        let addressed = (0..self.reading.sources.len())
            .any(|passage| !self.reading.evidence.instructions(passage).is_empty());
        if addressed {
            self.draft.note(
                "a passage holds instructions to the model; they were not followed, shown to it or quoted",
            );
        }
        if self.request.model.as_deref() == Some(EXTRACTIVE) {
            return self.extract().await;
        }
        match self.generate().await? {
            Generation::Supported(model) => self.finish(Method::Generated, model).await,
            // A model that a document may have told to decline is not believed.
            Generation::Absent(model) if !addressed => self.abstain(model).await,
            Generation::Absent(_) | Generation::Nothing => self.extract().await,
        }
    }

    /// Lets a backend write, and sends what is supported.
    async fn generate(&mut self) -> Result<Generation, CallerLeft> {
        let started = Instant::now();
        let (rag, reading, asked) = (&self.rag, &self.reading, &self.request);
        let plan = |backend: &dyn Generator| plan(rag, asked, reading, backend);
        let selector = Selector {
            model: asked.model.as_deref(),
            collection: Some(&self.collection.name),
            tenant: Some(asked.caller.tenant.0),
            question: &asked.question,
            until: Some(self.deadline),
        };
        let outcome = match rag.answers.generate(&selector, plan).await {
            Ok(routed) => self.read(routed).await?,
            Err(error) => {
                self.attempts = error.attempts().to_vec();
                if matches!(error, RouteError::Deadline { .. }) {
                    self.draft.note("no backend answered before the deadline");
                }
                Generation::Nothing
            }
        };
        self.explanation.stages.push(("generate and check", started.elapsed()));
        Ok(outcome)
    }

    async fn read(&mut self, routed: Routed<Plan>) -> Result<Generation, CallerLeft> {
        self.attempts = routed.attempts;
        let passages = routed.plan.passages();
        self.account.begin(&routed.backend, &routed.plan.prompt);
        self.explanation.passages_used = passages;
        self.explanation.prompt = routed.plan.prompt;
        self.context = routed.plan.context;
        if self.context.iter().any(|passage| passage.outcome == Use::OverBudget) {
            self.draft
                .note(&format!("{passages} of {} passages fit the model's context", self.context.len()));
        }
        let mut stream = routed.stream;
        let mut reader = SentenceReader::default();
        loop {
            let part = match timeout_at(self.deadline, stream.next()).await {
                Ok(Some(Ok(part))) => part,
                Ok(Some(Err(error))) => {
                    tracing::warn!(backend = routed.backend, %error, "the backend failed while it wrote");
                    let backend = routed.backend.clone();
                    self.attempts.push(Attempt { backend, tries: 1, error, refusal: None });
                    break;
                }
                Ok(None) => break,
                Err(_) => {
                    self.draft.note("the answer was stopped at the deadline");
                    break;
                }
            };
            self.account.count(&part);
            let GeneratedPart::Text(text) = part else { continue };
            for sentence in reader.push(&text) {
                if let Some(end) = self.accept(sentence, &routed.backend).await? {
                    return Ok(end);
                }
            }
        }
        for sentence in reader.finish() {
            if let Some(end) = self.accept(sentence, &routed.backend).await? {
                return Ok(end);
            }
        }
        Ok(self.so_far(&routed.backend))
    }

    fn so_far(&self, backend: &str) -> Generation {
        if self.draft.citations.is_empty() {
            Generation::Nothing
        } else {
            Generation::Supported(backend.to_owned())
        }
    }

    /// Checks a sentence and sends it; says where reading ends.
    async fn accept(
        &mut self,
        mut sentence: CitedSentence,
        backend: &str,
    ) -> Result<Option<Generation>, CallerLeft> {
        sentence.text = self.reading.plain(&sentence.text);
        if is_abstention(&sentence.text) {
            // After supported sentences it is a remark on what else was asked.
            let first = self.draft.citations.is_empty();
            return Ok(Some(if first {
                Generation::Absent(backend.to_owned())
            } else {
                self.so_far(backend)
            }));
        }
        if self.reading.evidence.says_nothing(&sentence.text) {
            return Ok(None);
        }
        if sentence.cited.iter().any(|n| self.reading.source(*n).is_none()) {
            self.draft.note("a citation of a passage that was not retrieved was removed");
        }
        if self.draft.text.contains(&sentence.text) {
            return Ok(None); // Small models repeat themselves.
        }
        let supports = self.reading.supports(&sentence);
        let Some((first, _)) = supports.first() else {
            self.draft.note("a sentence that the passages do not support was left out, with what followed");
            return Ok(Some(self.so_far(backend)));
        };
        // What follows a sentence that answers may well be about something beside it.
        if self.draft.text.is_empty() && !self.is_relevant(first).await {
            self.draft.note("a sentence that does not answer the question was left out, with what followed");
            return Ok(Some(self.so_far(backend)));
        }
        let separator = match (self.draft.text.is_empty(), sentence.new_line) {
            (true, _) => "",
            (false, true) => "\n",
            (false, false) => " ",
        };
        self.draft.write(separator, &sentence.text, &supports, &self.reading.sources).await?;
        Ok(None)
    }

    async fn is_relevant(&mut self, support: &Support) -> bool {
        self.rank().await.is_err() || self.reading.is_relevant(support)
    }

    /// Sorts the passages' sentences by nearness to the question, the first time, and charges for it.
    async fn rank(&mut self) -> Result<(), RagError> {
        if self.reading.ranking.is_none() {
            let started = Instant::now();
            let embedder = self.rag.embedder_of(&self.collection).await?;
            let tokens = self.reading.rank(embedder.as_ref()).await?;
            self.account.embedded(&embedder.space().model, tokens);
            self.explanation.stages.push(("rank sentences", started.elapsed()));
        }
        Ok(())
    }

    /// The answer in the documents' own words.
    async fn extract(&mut self) -> Result<(), CallerLeft> {
        self.context = self.reading.all_read();
        if let Err(error) = self.rank().await {
            return self.draft.send_error(error).await;
        }
        for quote in quotes(self.reading.ranking.as_deref().unwrap_or_default()) {
            let separator = if self.draft.text.is_empty() { "" } else { " " };
            let Some(source) = self.reading.source(quote.passage + 1) else { continue };
            let is_verbatim = source.passage.content[quote.range.clone()] == quote.text;
            let words = self.reading.plain(&quote.text);
            if words.is_empty() {
                continue;
            }
            let support = Support { passage: quote.passage, quote: quote.range, coverage: 1.0 };
            let sentence = if is_verbatim { format!("“{words}”") } else { words };
            self.draft.write(separator, &sentence, &[(support, true)], &self.reading.sources).await?;
        }
        if self.draft.citations.is_empty() {
            return self.abstain(EXTRACTIVE.into()).await;
        }
        self.finish(Method::Extractive, EXTRACTIVE.into()).await
    }

    /// Only where nothing was written before.
    async fn abstain(&mut self, model: String) -> Result<(), CallerLeft> {
        self.draft.write("", ABSTENTION, &[], &[]).await?;
        self.finish(Method::Abstained, model).await
    }

    async fn finish(&mut self, method: Method, model: String) -> Result<(), CallerLeft> {
        let answer = Answer {
            id: Uuid::now_v7(),
            text: std::mem::take(&mut self.draft.text),
            method,
            citations: std::mem::take(&mut self.draft.citations),
            usage: self.account.close(&model),
            model,
            attempts: std::mem::take(&mut self.attempts),
            notes: std::mem::take(&mut self.draft.notes),
            context: std::mem::take(&mut self.context),
            cached: None,
            elapsed: self.started.elapsed(),
            explanation: self.request.explain.then(|| std::mem::take(&mut self.explanation)),
        };
        self.remember(&answer);
        let (caller, question) = (self.request.caller, &self.request.question);
        self.rag.record_answer(caller, &self.collection, question, &answer).await;
        self.draft.send(AskEvent::Done(Box::new(answer))).await
    }

    /// What an outage or a deadline made of the answer is not what the next one should get.
    fn remember(&mut self, answer: &Answer) {
        let wanted = match answer.method {
            Method::Generated => true,
            Method::Extractive => self.request.model.as_deref() == Some(EXTRACTIVE),
            Method::Abstained => answer.model != EXTRACTIVE,
        };
        let in_time = tokio::time::Instant::now() < self.deadline;
        if let Some(key) = self.key.take().filter(|_| wanted && in_time && answer.attempts.is_empty()) {
            let (question, vector) = (&self.request.question, &self.reading.question_vector);
            self.rag.answer_cache.put(key, question, vector, answer, &self.reading.sources);
        }
    }
}

/// An answer that was made before, given again.
pub(super) struct Replay {
    pub answer: Answer,
    pub sources: Vec<NumberedPassage>,
    pub events: mpsc::Sender<Result<AskEvent, RagError>>,
    pub started: Instant,
}

impl Replay {
    /// Records it as an answer of its own and sends its events.
    pub(super) async fn send(self, rag: Rag, request: AskRequest, found: SearchOutcome) {
        let usage = Account::open(&rag, request.caller, &found).close(&self.answer.model);
        let answer = Answer { id: Uuid::now_v7(), usage, elapsed: self.started.elapsed(), ..self.answer };
        rag.record_answer(request.caller, &found.collection, &request.question, &answer).await;
        let cited = answer.citations.clone().into_iter().map(AskEvent::Citation);
        let text = AskEvent::Delta(answer.text.clone());
        let events = [AskEvent::Sources(self.sources), text].into_iter().chain(cited);
        for event in events.chain([AskEvent::Done(Box::new(answer))]) {
            if self.events.send(Ok(event)).await.is_err() {
                return;
            }
        }
    }
}
