//! Where a passage says something: sentences, cells of tables, and what stands together.

use std::{borrow::Cow, ops::Range};

use super::{
    facts::{Detail, Facts, Kind, refers_back},
    overlap,
};
use crate::rag::{sentences::sentences, tables};

/// A sentence, or a cell of a table with what its row and column are called.
struct Statement {
    facts: Facts,
    /// Of the sentence before, which "it" and "they" refer to.
    context: Facts,
}

/// Statements that stand together: one, two adjoining sentences, or a row.
pub(super) struct Window {
    pub range: Range<usize>,
    pub facts: Facts,
    /// Their places in the passage's list.
    statements: Range<usize>,
}

/// A sentence or a row, as it is read by itself.
pub struct Saying {
    pub range: Range<usize>,
    /// The words of the range; of a row with the names of its columns.
    pub text: String,
}

/// What a passage says.
pub(super) struct Place {
    /// In order.
    pub sayings: Vec<Saying>,
    statements: Vec<Statement>,
    pub windows: Vec<Window>,
}

impl Statement {
    fn holds(&self, detail: &Detail) -> bool {
        self.facts.holds(detail) || (detail.kind == Kind::Name && self.context.holds(detail))
    }
}

impl Window {
    pub fn is_joined(&self) -> bool {
        self.statements.len() > 1
    }
}

impl Place {
    /// Headings say nothing, nor does what speaks to the model (`instructions`).
    pub fn of(passage: &str, instructions: &[Range<usize>]) -> Self {
        let mut place = Self { sayings: Vec::new(), statements: Vec::new(), windows: Vec::new() };
        let rows = tables::rows(passage);
        let speaks = |range: &Range<usize>| instructions.iter().any(|order| overlap(order, range));
        let mut before: Option<Range<usize>> = None;
        for range in sentences(passage) {
            let text = &passage[range.clone()];
            if is_heading(text) || tables::is_row(text) || speaks(&range) {
                before = None;
                continue;
            }
            if !rows.iter().any(|row| overlap(&row.range, &range)) {
                place.add_sentence(passage, before.replace(range.clone()), range);
            }
        }
        for row in rows.iter().filter(|row| !speaks(&row.range)) {
            place.add_row(row);
        }
        place.sayings.sort_by_key(|saying| saying.range.start);
        place
    }

    fn add_sentence(&mut self, passage: &str, before: Option<Range<usize>>, range: Range<usize>) {
        let text = &passage[range.clone()];
        let context = match before.is_some().then(|| self.statements.last()).flatten() {
            Some(before) if refers_back(text) => before.facts.union(&before.context),
            _ => Facts::default(),
        };
        let at = self.statements.len();
        self.sayings.push(Saying { range: range.clone(), text: text.to_owned() });
        self.statements.push(Statement { facts: Facts::of(text), context });
        self.add_window(range.clone(), at..at + 1);
        if let Some(before) = before {
            self.add_window(before.start..range.end, at - 1..at + 1);
        }
    }

    /// The first cell names the row.
    fn add_row(&mut self, row: &tables::Row) {
        let first = self.statements.len();
        self.sayings.push(Saying { range: row.range.clone(), text: read_out(row) });
        let column = |at: usize| row.columns.get(at).copied().unwrap_or_default();
        let name = row.cells.first().copied().unwrap_or_default();
        let cells = row.cells.iter().enumerate().skip(usize::from(row.cells.len() > 1));
        for (at, cell) in cells {
            let said: Cow<str> = match at {
                0 => name.into(),
                _ => format!("{} {name} {} {cell}", column(0), column(at)).into(),
            };
            let at = self.statements.len();
            let statement = Statement { facts: Facts::of(&said), context: Facts::default() };
            self.statements.push(statement);
            self.add_window(row.range.clone(), at..at + 1);
        }
        if self.statements.len() > first + 1 {
            self.add_window(row.range.clone(), first..self.statements.len());
        }
    }

    fn add_window(&mut self, range: Range<usize>, statements: Range<usize>) {
        let said = self.statements[statements.clone()].iter();
        let facts = said.fold(Facts::default(), |all, statement| all.union(&statement.facts));
        self.windows.push(Window { range, facts, statements });
    }

    /// Whether a number or name of a claim is said of what the claim says it of.
    ///
    /// It is not where another statement has more of the words around it, and a number or name in its
    /// place that the claim does not give. Numbers are compared with the whole passage, names with the
    /// window: most sentences hold some name.
    pub fn is_said_there(&self, window: &Window, detail: &Detail, claim: &Facts) -> bool {
        let near = &self.statements[window.statements.clone()];
        let rivals = if detail.kind == Kind::Number { &self.statements[..] } else { near };
        let nearness = |statement: &Statement| statement.facts.nearness(detail);
        let own = near.iter().filter(|statement| statement.holds(detail)).map(nearness).max();
        own.is_none_or(|own| {
            let rivals = rivals.iter().filter(|statement| !statement.holds(detail));
            rivals
                .filter(|statement| statement.facts.has_more(detail.kind, claim))
                .all(|statement| nearness(statement) <= own)
        })
    }
}

/// "Ticket: Adult; Long Route: 14.00".
fn read_out(row: &tables::Row) -> String {
    let cells = row.cells.iter().enumerate().filter(|(_, cell)| !cell.is_empty());
    let named = cells.map(|(at, cell)| match row.columns.get(at) {
        Some(column) if !column.is_empty() => format!("{column}: {cell}"),
        _ => (*cell).to_owned(),
    });
    named.collect::<Vec<_>>().join("; ")
}

/// A heading names what follows and says nothing of it.
fn is_heading(sentence: &str) -> bool {
    sentence.starts_with('#')
}

#[cfg(test)]
mod tests {
    use super::super::Evidence;

    fn said(passage: &str, claim: &str) -> bool {
        Evidence::new("What does a ticket cost, or who pays?", [passage]).support(claim).is_some()
    }

    #[test]
    fn a_number_belongs_to_the_sentence_that_speaks_of_the_same() {
        let passage = "A bicycle costs 3 euros. A car with its driver costs 39 euros.";
        assert!(said(passage, "A bicycle costs 3 euros."));
        assert!(said(passage, "A bicycle costs 3 euros and a car 39."));
        assert!(!said(passage, "A car with its driver costs 3 euros."));
    }

    #[test]
    fn a_name_may_stand_in_the_sentence_that_it_refers_back_to() {
        let passage = "The ferry Aurora was built in Leith. It was bought by Ida Holm.";
        assert!(said(passage, "The ferry Aurora was bought by Ida Holm."));
        let passage = "The ferry Aurora was built in Leith. Ida Holm bought it in Nordby.";
        assert!(!said(passage, "The ferry was built in Nordby."));
        assert!(!said(
            "The Aurora came late. The Borealis was on time in Leith.",
            "The Aurora was on time in Leith."
        ));
    }

    #[test]
    fn a_cell_is_said_of_its_row_and_column() {
        let passage = "| Ticket | Long Route | Short Route |\n|---|---|---|\n| Adult | 14.00 | 8.50 |\n\
                       | Child | 7.00 | 4.00 |\n\nA day rover costs 32 crowns.";
        assert!(said(passage, "An adult pays 14.00 on the Long Route."));
        assert!(said(passage, "A child's ticket is 4.00 on the Short Route and 7.00 on the Long Route."));
        assert!(!said(passage, "An adult pays 8.50 on the Long Route."));
        assert!(!said(passage, "An adult ticket on the Long Route costs 7.00."));
        assert!(!said(passage, "A day rover costs 7.00 crowns."));
    }
}
